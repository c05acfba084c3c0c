# SPDX-License-Identifier: GPL-2.0-only

include $(sort $(wildcard $(BR2_EXTERNAL_THROUGHWIRE_PATH)/package/*/*.mk))

# Buildroot can start a kernel configuration from a defconfig only. Its recipe
# is "make $(LINUX_KCONFIG_DEFCONFIG), merge the fragments, olddefconfig";
# allnoconfig takes the defconfig's place. KCONFIG_ALLCONFIG hands it the
# fragments at once: symbols that become visible through them stay off as well,
# instead of getting their defaults from olddefconfig.
ifeq ($(BR2_THROUGHWIRE_KERNEL_ALLNOCONFIG),y)
THROUGHWIRE_KERNEL_BASE = $(BUILD_DIR)/throughwire-kernel.config

# Compared by content each time: another board's defconfig in the same output
# folder changes the list of fragments, and none of them is newer.
.PHONY: throughwire-kernel-fragments
$(THROUGHWIRE_KERNEL_BASE): $(LINUX_KCONFIG_FRAGMENT_FILES) throughwire-kernel-fragments
	$(Q)mkdir -p $(@D)
	$(Q)cat $(LINUX_KCONFIG_FRAGMENT_FILES) | cmp -s - $@ || \
		cat $(LINUX_KCONFIG_FRAGMENT_FILES) >$@

LINUX_KCONFIG_DEFCONFIG = allnoconfig
LINUX_KCONFIG_OPTS += KCONFIG_ALLCONFIG=$(THROUGHWIRE_KERNEL_BASE)
$(LINUX_DIR)/$(LINUX_KCONFIG_STAMP_DOTCONFIG): $(THROUGHWIRE_KERNEL_BASE)
endif

# Guests run on KVM only. Without TCG Buildroot hides the choice of targets and
# QEMU's configure would build every one that can use KVM. It would take GLib's
# libgio for D-Bus too, which nothing here speaks.
ifeq ($(BR2_PACKAGE_QEMU_SYSTEM)$(BR2_PACKAGE_QEMU_SYSTEM_TCG),y)
QEMU_OPTS += --target-list=$(ARCH)-softmmu --disable-gio
endif

# SNMPv3 alone, and nothing that sets or runs anything: what no configuration can turn on needs no trust
ifeq ($(BR2_PACKAGE_NETSNMP),y)
NETSNMP_CONF_OPTS += --disable-snmpv1 --disable-snmpv2c --disable-des --disable-md5 --enable-read-only \
	--with-default-snmp-version=3
endif

# post-build.sh writes the list: what the start reads lies together in the image, in the order of reading
ifeq ($(BR2_PACKAGE_THROUGHWIRE),y)
ROOTFS_SQUASHFS_ARGS += -sort $(BUILD_DIR)/throughwire-start-order
endif
