# SPDX-License-Identifier: Apache-2.0
# `cpack` in the build folder writes qtool_VERSION_ARCH.deb.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME qtool)
set(CPACK_PACKAGE_CONTACT "qtool maintainers <maintainers@qtool.invalid>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
    WORLD_READ WORLD_EXECUTE)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "post-training quantization toolchain for ONNX models")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "qtool reads an ONNX model, runs the calibration passes that a YAML recipe names
and writes a quantized model that ONNX Runtime runs on integer kernels. The
written file is checked, run and compared with the float model before it is
published, and withheld when it misses the gate of the recipe.
.
This package has the program, the library libqtool with its C header and CMake
package, the shipped recipes, and completions for bash, zsh and fish.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libopenblas0")  # opened at run time, so that shlibdeps cannot see it
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
