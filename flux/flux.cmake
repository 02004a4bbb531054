# libflux (static, installed header, pkg-config file) and the flux command.
file(GLOB flux_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/flux/*.c)
list(FILTER flux_sources EXCLUDE REGEX "/flux/main\\.c$")
file(GLOB flux_command_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/flux/command/*.c)

# flux_static is libflux in parts, each room its own archive: what the tree itself links.
add_library(flux_static STATIC ${flux_sources})
set_target_properties(flux_static PROPERTIES OUTPUT_NAME flux_parts)
target_link_libraries(flux_static PUBLIC PkgConfig::CURL PkgConfig::JANSSON PkgConfig::EVENT proto room_serve room_base)

add_executable(flux flux/main.c ${flux_command_sources})
target_link_libraries(flux PRIVATE flux_static)

# libflux.a is what others link: one object with the rooms it needs inside and nothing but flux_* visible, so that a
# program with an arena_alloc of its own still links.
set(flux_archives $<TARGET_FILE:flux_static> $<TARGET_FILE:proto>)
foreach(room serve http net config base)
    get_target_property(kind room_${room} TYPE)
    if(kind STREQUAL "STATIC_LIBRARY")
        list(APPEND flux_archives $<TARGET_FILE:room_${room}>)
        list(APPEND flux_rooms room_${room})
    endif()
endforeach()
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/libflux.a
    COMMAND ${CMAKE_LINKER} -r -o flux_whole.o -u flux_new -u flux_strerror --start-group ${flux_archives} --end-group
    COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=flux_* flux_whole.o
    COMMAND ${CMAKE_COMMAND} -E rm -f libflux.a
    COMMAND ${CMAKE_AR} rcs libflux.a flux_whole.o
    DEPENDS flux_static proto ${flux_rooms} WORKING_DIRECTORY ${CMAKE_BINARY_DIR} VERBATIM)
add_custom_target(libflux ALL DEPENDS ${CMAKE_BINARY_DIR}/libflux.a)

# Flags instead of Requires: with --static libcurl.pc names libraries that Debian has no static form of, and which a
# program that links the shared libcurl does not need.
set(flux_flags ${CURL_LDFLAGS} ${JANSSON_LDFLAGS} ${EVENT_LDFLAGS} ${PROTOBUF_C_LDFLAGS} ${NGHTTP2_LDFLAGS})
foreach(folder ${CMAKE_C_IMPLICIT_LINK_DIRECTORIES})
    list(REMOVE_ITEM flux_flags -L${folder})
endforeach()
list(REMOVE_DUPLICATES flux_flags)
list(JOIN flux_flags " " FLUX_PC_LIBS)
# Relative, so that an installed tree may be moved (DESTDIR, --prefix)
file(RELATIVE_PATH FLUX_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_SOURCE_DIR}/flux/flux.pc.in ${CMAKE_BINARY_DIR}/flux.pc @ONLY)

add_library(flux_whole STATIC IMPORTED)
set_target_properties(flux_whole PROPERTIES IMPORTED_LOCATION ${CMAKE_BINARY_DIR}/libflux.a)
add_dependencies(flux_whole libflux)
target_link_libraries(flux_whole INTERFACE PkgConfig::CURL PkgConfig::JANSSON PkgConfig::EVENT PkgConfig::PROTOBUF_C
    PkgConfig::NGHTTP2)

# The example links as a user's program would.
add_executable(example_backend examples/backend.c)
target_include_directories(example_backend PRIVATE ${CMAKE_SOURCE_DIR}/flux)
target_link_libraries(example_backend PRIVATE flux_whole)
set_target_properties(example_backend PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/examples OUTPUT_NAME backend)

# A component of its own: cmake --install BUILD --component flux
install(TARGETS flux RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT flux)
install(FILES flux/flux.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT flux)
install(FILES ${CMAKE_BINARY_DIR}/libflux.a DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT flux)
install(FILES ${CMAKE_BINARY_DIR}/flux.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT flux)
