################################################################################
#
# python-qemu-qmp
#
################################################################################

PYTHON_QEMU_QMP_VERSION = 0.0.6
PYTHON_QEMU_QMP_SOURCE = qemu_qmp-$(PYTHON_QEMU_QMP_VERSION).tar.gz
PYTHON_QEMU_QMP_SITE = https://files.pythonhosted.org/packages/ea/20/f3fa6bfbcd570a09d5ec65a5398be9251d2bf07398874d2a2c97a05cbdeb
PYTHON_QEMU_QMP_SETUP_TYPE = setuptools
PYTHON_QEMU_QMP_LICENSE = LGPL-2.0+, GPL-2.0 (legacy.py)
PYTHON_QEMU_QMP_LICENSE_FILES = LICENSE LICENSE_GPL2
PYTHON_QEMU_QMP_DEPENDENCIES = host-python-setuptools-scm

$(eval $(python-package))
