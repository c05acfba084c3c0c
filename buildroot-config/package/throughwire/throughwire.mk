################################################################################
#
# throughwire
#
################################################################################

THROUGHWIRE_SITE = $(realpath $(BR2_EXTERNAL_THROUGHWIRE_PATH)/..)
THROUGHWIRE_SITE_METHOD = local
# One source of the version: pyproject.toml
THROUGHWIRE_VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' $(THROUGHWIRE_SITE)/pyproject.toml)
THROUGHWIRE_SETUP_TYPE = setuptools
THROUGHWIRE_LICENSE = GPL-2.0
THROUGHWIRE_LICENSE_FILES = LICENSE
THROUGHWIRE_DEPENDENCIES = libbpf

# Only what is installed: the checkout holds build/, with Buildroot's own output,
# and console/fleet, which runs on other computers
THROUGHWIRE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--exclude='__pycache__' --exclude='*.egg-info' \
	--exclude='/console/fleet' \
	--include='/appliance/***' --include='/console/***' \
	--include='/board/***' --include='/pyproject.toml' \
	--include='/LICENSE' --exclude='*'
# Sources to hand over with the firmware: all of the checkout but build/
throughwire-legal-info: RSYNC_VCS_EXCLUSIONS += \
	--exclude='/build' --exclude='__pycache__' --exclude='*.egg-info' \
	--exclude='/.*_cache' --exclude='/.hypothesis'

# Buildroot builds no clang that compiles for BPF: the build host's serves. Its
# headers stay out, the target's serve. The flags are those of the top Makefile.
# Neither the folders nor Buildroot's own, where clang runs, stand in the object.
# Its types and lines (BTF) stay in it; what a debugger reads, goes.
define THROUGHWIRE_BUILD_DATAPATH
	command -v clang >/dev/null || { \
		echo "throughwire: the build host has no clang, which compiles the datapath"; \
		exit 1; \
	}
	clang -O2 -g -Wall -Wextra -Werror -target bpf -mcpu=v3 \
		-nostdlibinc -isystem $(STAGING_DIR)/usr/include \
		-ffile-prefix-map=$(@D)=. -ffile-prefix-map=$(STAGING_DIR)= \
		-ffile-compilation-dir=. \
		-c $(@D)/appliance/bpf/steer.bpf.c -o $(@D)/steer.bpf.o
	llvm-strip -g $(@D)/steer.bpf.o
endef
THROUGHWIRE_POST_BUILD_HOOKS += THROUGHWIRE_BUILD_DATAPATH

# Loaded into the SSH server where RADIUS or TACACS+ servers decide about logins
define THROUGHWIRE_BUILD_LOGIN_HOOK
	$(TARGET_CC) $(TARGET_CFLAGS) $(TARGET_LDFLAGS) -Wall -Wextra -Werror -shared -fPIC -s \
		-o $(@D)/login-hook.so $(@D)/appliance/login-hook/login_hook.c
endef
THROUGHWIRE_POST_BUILD_HOOKS += THROUGHWIRE_BUILD_LOGIN_HOOK

# As the QEMU image has them: Python sees the image's own packages only
define THROUGHWIRE_ISOLATE_SCRIPTS
	$(SED) '1s,^#!.*,#!/usr/bin/python3 -I,' \
		$(addprefix $(TARGET_DIR)/usr/bin/,bypass bypassd bypass-keeper)
endef
THROUGHWIRE_POST_INSTALL_TARGET_HOOKS += THROUGHWIRE_ISOLATE_SCRIPTS

# post-build.sh packs it: its busybox and kernel are those of the image
ifeq ($(BR2_PACKAGE_THROUGHWIRE_DEMO_GUEST),y)
define THROUGHWIRE_BUILD_FORWARDER
	$(TARGET_CC) $(TARGET_CFLAGS) -Wall -static -pthread -s \
		-o $(@D)/forwarder $(@D)/board/guest-demo/forwarder.c
	$(INSTALL) -D -m 0755 $(@D)/forwarder $(BINARIES_DIR)/guest-demo/forwarder
endef
THROUGHWIRE_POST_BUILD_HOOKS += THROUGHWIRE_BUILD_FORWARDER
endif

define THROUGHWIRE_INSTALL_BOARD_AND_DATAPATH
	$(INSTALL) -D -m 0644 \
		$(@D)/board/$(call qstrip,$(BR2_PACKAGE_THROUGHWIRE_BOARD))/board.toml \
		$(TARGET_DIR)/usr/share/bypass/board.toml
	$(INSTALL) -D -m 0644 $(@D)/steer.bpf.o \
		$(TARGET_DIR)/usr/share/bypass/steer.bpf.o
	$(INSTALL) -D -m 0755 $(@D)/login-hook.so \
		$(TARGET_DIR)/usr/lib/bypass/login-hook.so
endef
THROUGHWIRE_POST_INSTALL_TARGET_HOOKS += THROUGHWIRE_INSTALL_BOARD_AND_DATAPATH

$(eval $(python-package))
