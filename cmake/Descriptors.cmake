# fluxgate_descriptors(TARGET protos files...): a FileDescriptorSet of the files as the C array proto_descriptors, for
# server reflection. Run with -P it turns the binary INPUT into OUTPUT.c.
if(CMAKE_SCRIPT_MODE_FILE)
    file(READ ${INPUT} bytes HEX)
    string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
    file(WRITE ${OUTPUT}.h "#include <stddef.h>\nextern const unsigned char proto_descriptors[];\nextern const size_t proto_descriptors_len;\n")
    file(WRITE ${OUTPUT}.c "#include \"descriptors.h\"\nconst unsigned char proto_descriptors[] = {\n${bytes}\n};\nconst size_t proto_descriptors_len = sizeof proto_descriptors;\n")
    return()
endif()

function(fluxgate_descriptors target)
    set(out ${CMAKE_BINARY_DIR}/generated/proto/descriptors)
    list(TRANSFORM ARGN PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE inputs)
    add_custom_command(OUTPUT ${out}.c ${out}.h
        COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/generated/proto
        COMMAND ${PROTOC_C} --proto_path=${CMAKE_SOURCE_DIR} --descriptor_set_out=${out}.bin ${ARGN}
        COMMAND ${CMAKE_COMMAND} -DINPUT=${out}.bin -DOUTPUT=${out} -P ${CMAKE_SOURCE_DIR}/cmake/Descriptors.cmake
        DEPENDS ${inputs} ${CMAKE_SOURCE_DIR}/cmake/Descriptors.cmake WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} VERBATIM)
    target_sources(${target} PRIVATE ${out}.c ${out}.h)
endfunction()
