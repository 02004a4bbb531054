# Two rules of the tree, checked at build time by cmake/check_includes.py: no include points upwards, lua.h stays in
# core/script; and each header compiles alone.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
file(GLOB_RECURSE fluxgate_headers CONFIGURE_DEPENDS core/*.h registry/*.h flux/*.h)
file(GLOB_RECURSE fluxgate_all_sources CONFIGURE_DEPENDS core/*.c registry/*.c flux/*.c)
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/includes.checked
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/check_includes.py ${CMAKE_SOURCE_DIR}
    COMMAND ${CMAKE_COMMAND} -E touch ${CMAKE_BINARY_DIR}/includes.checked
    DEPENDS ${fluxgate_headers} ${fluxgate_all_sources} ${CMAKE_SOURCE_DIR}/cmake/check_includes.py VERBATIM)
add_custom_target(check_includes ALL DEPENDS ${CMAKE_BINARY_DIR}/includes.checked)
