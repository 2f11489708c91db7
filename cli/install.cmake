# SPDX-License-Identifier: Apache-2.0
# What `cmake --install` puts where. The man page and the completions are written by the program that was built.
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

# qtool_written(FILE ARGUMENTS...): a file under share/ of the build folder that holds what the program prints.
set(written_dir ${PROJECT_BINARY_DIR}/share)
file(MAKE_DIRECTORY ${written_dir})
function(qtool_written file)
  add_custom_command(OUTPUT ${written_dir}/${file} COMMAND qtool ${ARGN} > ${written_dir}/${file}.part
                     COMMAND ${CMAKE_COMMAND} -E rename ${written_dir}/${file}.part ${written_dir}/${file}
                     DEPENDS qtool VERBATIM)
  set_property(GLOBAL APPEND PROPERTY qtool_written ${written_dir}/${file})
endfunction()
qtool_written(qtool.1 man)
foreach(shell bash zsh fish)
  qtool_written(qtool.${shell} completion ${shell})
endforeach()

# qtool_zipped(OUTPUT INPUT): compressed as Debian policy asks, without name and time.
function(qtool_zipped output input)
  add_custom_command(OUTPUT ${written_dir}/${output} COMMAND gzip -9nc ${input} > ${written_dir}/${output}
                     DEPENDS ${input} VERBATIM)
  set_property(GLOBAL APPEND PROPERTY qtool_written ${written_dir}/${output})
endfunction()
qtool_zipped(qtool.1.gz ${written_dir}/qtool.1)
qtool_zipped(changelog.gz ${PROJECT_SOURCE_DIR}/CHANGELOG.md)
get_property(written GLOBAL PROPERTY qtool_written)
add_custom_target(qtool_share ALL DEPENDS ${written})

install(FILES ${written_dir}/qtool.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${written_dir}/qtool.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME qtool)
install(FILES ${written_dir}/qtool.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
# Debian's zsh looks in another folder under /usr than under /usr/local.
install(CODE "
  if(CMAKE_INSTALL_PREFIX STREQUAL /usr)
    set(zsh_dir vendor-completions)
  else()
    set(zsh_dir site-functions)
  endif()
  file(INSTALL \"${written_dir}/qtool.zsh\" RENAME _qtool
       DESTINATION \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}/zsh/\${zsh_dir}\")")

install(FILES LICENSE NOTICE README.md docs/passes.md docs/recipes.md docs/numbers.md docs/from-onnxruntime.md
        cli/package/copyright ${written_dir}/changelog.gz DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/exit-codes docs/targets DESTINATION ${CMAKE_INSTALL_DOCDIR})
include(${CMAKE_CURRENT_LIST_DIR}/package/deb.cmake)
