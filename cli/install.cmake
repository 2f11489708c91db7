# SPDX-License-Identifier: Apache-2.0
# What `cmake --install` puts where, and the .deb that cpack makes of it.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
include(${CMAKE_CURRENT_LIST_DIR}/library/library.cmake)

install(TARGETS qtool RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS libqtool EXPORT qtool_targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# find_package(qtool) gives qtool::qtool.
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/qtool)
install(EXPORT qtool_targets NAMESPACE qtool:: FILE qtoolConfig.cmake DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/qtoolConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/qtoolConfigVersion.cmake DESTINATION ${package_dir})

install(DIRECTORY ${PROJECT_SOURCE_DIR}/recipes/ DESTINATION ${CMAKE_INSTALL_DATADIR}/qtool/recipes
        FILES_MATCHING PATTERN "*.yaml" PATTERN reader EXCLUDE)
install(FILES ${PROJECT_SOURCE_DIR}/NOTICE ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/CHANGELOG.md
        ${PROJECT_SOURCE_DIR}/docs/passes.md ${PROJECT_SOURCE_DIR}/docs/errors.md ${PROJECT_SOURCE_DIR}/docs/numbers.md
        DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
