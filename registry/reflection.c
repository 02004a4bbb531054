/* registry/reflection.c: grpc.reflection.v1 and v1alpha, which have one wire. The answers are the descriptors
 * that the build made of proto/, taken apart just far enough to find who declares what. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/descriptors.h"
#include "proto/reflection.pb-c.h"
#include "registry/registry_internal.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { CODE_NOT_FOUND = 5, CODE_UNIMPLEMENTED = 12, FILES_MAX = 16 };

/* One protobuf field at a time. */
struct field {
    unsigned number;
    struct slice bytes; /* of WIRE_BYTES */
};

static bool
read_varint(struct slice *in, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && in->len > 0; shift += 7) {
        unsigned char c = (unsigned char)*in->at++;
        in->len--;
        *value |= (uint64_t)(c & 0x7f) << shift;
        if ((c & 0x80) == 0) return true;
    }
    return false;
}

static bool
next_field(struct slice *in, struct field *field)
{
    uint64_t key, value;
    if (in->len == 0 || !read_varint(in, &key)) return false;
    field->number = (unsigned)(key >> 3);
    field->bytes = SLICE_NONE;
    switch (key & 7) {
    case WIRE_VARINT: return read_varint(in, &value);
    case WIRE_64: value = 8; break;
    case WIRE_32: value = 4; break;
    case WIRE_BYTES:
        if (!read_varint(in, &value)) return false;
        break;
    default: return false;
    }
    if (value > in->len) return false;
    field->bytes = (struct slice){in->at, (size_t)value};
    in->at += value;
    in->len -= (size_t)value;
    return true;
}

static struct slice
first_of(struct slice message, unsigned number)
{
    struct field field;
    while (next_field(&message, &field)) {
        if (field.number == number) return field.bytes;
    }
    return SLICE_NONE;
}

/* Takes `name` and the dot behind it off *symbol; an empty name takes nothing. */
static bool
take_prefix(struct slice *symbol, struct slice name)
{
    if (!slice_starts_with(*symbol, name)) return false;
    if (symbol->len > name.len && name.len > 0 && symbol->at[name.len] != '.') return false;
    size_t n = name.len + (symbol->len > name.len && name.len > 0 ? 1 : 0);
    *symbol = (struct slice){symbol->at + n, symbol->len - n};
    return true;
}

/* descriptor.proto: FileDescriptorProto has message_type 4, enum_type 5, service 6; DescriptorProto
 * nested_type 3, enum_type 4, field 2; ServiceDescriptorProto method 2; EnumDescriptorProto value 2. Each
 * begins with name = 1. */
static bool
declares(struct slice file, struct slice symbol)
{
    struct field field, inner;
    struct slice package = first_of(file, 2);
    if (!take_prefix(&symbol, package) || symbol.len == 0) return false;
    while (next_field(&file, &field)) {
        if (field.number < 4 || field.number > 6) continue;
        struct slice rest = symbol, body = field.bytes;
        if (!take_prefix(&rest, first_of(body, 1))) continue;
        if (rest.len == 0) return true;
        while (next_field(&body, &inner)) {
            if (inner.number >= 2 && inner.number <= 4 && slice_equal(first_of(inner.bytes, 1), rest))
                return true;
        }
    }
    return false;
}

static bool
next_file(struct slice *set, struct slice *file)
{
    struct field field;
    while (next_field(set, &field)) {
        if (field.number != 1) continue;
        *file = field.bytes;
        return true;
    }
    return false;
}

static struct slice
descriptor_set(void)
{
    return (struct slice){(const char *)proto_descriptors, proto_descriptors_len};
}

static bool
find_file(const char *name, bool by_symbol, struct slice *file)
{
    struct slice set = descriptor_set();
    while (next_file(&set, file)) {
        if (by_symbol ? declares(*file, slice_of(name)) : slice_equal(first_of(*file, 1), slice_of(name)))
            return true;
    }
    return false;
}

typedef Grpc__Reflection__V1__ServerReflectionResponse response_message;

static void
pack(const response_message *response, struct strbuf *out)
{
    size_t len = protobuf_c_message_get_packed_size(&response->base);
    char *bytes = malloc(len + 1);
    if (bytes == NULL) {
        out->failed = true;
        return;
    }
    protobuf_c_message_pack(&response->base, (uint8_t *)bytes);
    strbuf_add(out, bytes, len);
    free(bytes);
}

static void
answer_error(response_message *response, int code, const char *text, struct strbuf *out)
{
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    error.error_code = code;
    error.error_message = (char *)text;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response->error_response = &error;
    pack(response, out);
}

static void
answer_file(response_message *response, const char *name, bool by_symbol, struct strbuf *out)
{
    Grpc__Reflection__V1__FileDescriptorResponse files = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    struct slice file;
    if (!find_file(name, by_symbol, &file)) {
        answer_error(response, CODE_NOT_FOUND, by_symbol ? "no such symbol" : "no such file", out);
        return;
    }
    ProtobufCBinaryData data = {file.len, (uint8_t *)file.at}; /* none of our files imports another */
    files.n_file_descriptor_proto = 1;
    files.file_descriptor_proto = &data;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    response->file_descriptor_response = &files;
    pack(response, out);
}

static void
answer_list(response_message *response, struct strbuf *out)
{
    Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse services[FILES_MAX], *pointers[FILES_MAX];
    char names[FILES_MAX][128];
    struct slice set = descriptor_set(), file;
    size_t count = 0;
    while (next_file(&set, &file) && count < FILES_MAX) {
        struct slice package = first_of(file, 2), name = first_of(first_of(file, 6), 1);
        if (name.len == 0) continue;
        snprintf(names[count], sizeof names[count], "%.*s.%.*s", (int)package.len, package.at, (int)name.len,
            name.at);
        grpc__reflection__v1__service_response__init(&services[count]);
        services[count].name = names[count];
        pointers[count] = &services[count];
        count++;
    }
    list.n_service = count;
    list.service = pointers;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = &list;
    pack(response, out);
}

bool
reflection_answer(struct slice bytes, struct strbuf *out)
{
    response_message response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__ServerReflectionRequest *request =
        grpc__reflection__v1__server_reflection_request__unpack(
            NULL, bytes.len, bytes.at == NULL ? (const uint8_t *)"" : (const uint8_t *)bytes.at);
    if (request == NULL) return false;
    response.valid_host = request->host;
    response.original_request = request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        answer_file(&response, request->file_by_filename, false, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        answer_file(&response, request->file_containing_symbol, true, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_list(&response, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        answer_error(&response, CODE_NOT_FOUND, "there are no extensions", out);
        break;
    default: answer_error(&response, CODE_UNIMPLEMENTED, "this kind of question is not known", out); break;
    }
    grpc__reflection__v1__server_reflection_request__free_unpacked(request, NULL);
    return true;
}
