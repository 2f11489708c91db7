# SPDX-License-Identifier: Apache-2.0
# The shipped recipes, compiled in: generated/shipped_recipes.inc holds {"name", R"(text)"} lines.
file(GLOB recipe_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/recipes/*.yaml)
set(text "// Generated from recipes/*.yaml.\n")
foreach(file IN LISTS recipe_files)
  get_filename_component(stem ${file} NAME_WE)
  file(READ ${file} body)
  string(APPEND text "{\"${stem}\", R\"recipe(${body})recipe\"},\n")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
endforeach()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/shipped_recipes.inc CONTENT "${text}" @ONLY)
