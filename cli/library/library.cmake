# SPDX-License-Identifier: Apache-2.0
# libqtool: the C API over the same static modules as the program; shows qtool_* and nothing else.
add_library(libqtool SHARED ${PROJECT_SOURCE_DIR}/cli/library/qtool.cpp)
set(version_script ${PROJECT_SOURCE_DIR}/cli/library/qtool.map)
set_target_properties(libqtool PROPERTIES OUTPUT_NAME qtool EXPORT_NAME qtool VERSION ${PROJECT_VERSION} SOVERSION 0
                      PUBLIC_HEADER ${PROJECT_SOURCE_DIR}/cli/library/qtool.h LINK_DEPENDS ${version_script})
target_include_directories(libqtool INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
                           $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/cli/library>)
target_link_libraries(libqtool PRIVATE $<BUILD_INTERFACE:qtool_cli>)
target_link_options(libqtool PRIVATE -Wl,--version-script=${version_script}
                    $<$<CONFIG:Release>:-Wl,--no-undefined>)
