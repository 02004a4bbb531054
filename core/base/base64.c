#include "core/base/base64.h"

#include <stdint.h>

static const char alphabets[2][65] = {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
};

size_t
base64_length(size_t bytes, enum base64_form form)
{
    size_t rest = bytes % 3;
    return bytes / 3 * 4 + (rest == 0 ? 0 : form == BASE64_STANDARD ? 4 : rest + 1);
}

void
base64_encode(struct slice bytes, enum base64_form form, char *out)
{
    const char *alphabet = alphabets[form];
    for (; bytes.len > 0;) {
        size_t n = bytes.len < 3 ? bytes.len : 3;
        uint32_t word = 0;
        for (size_t i = 0; i < 3; i++)
            word = word << 8 | (i < n ? (unsigned char)bytes.at[i] : 0u);
        for (size_t i = 0; i <= n; i++)
            *out++ = alphabet[word >> (18 - 6 * i) & 63];
        for (size_t i = n; i < 3 && form == BASE64_STANDARD; i++)
            *out++ = '=';
        bytes = (struct slice){bytes.at + n, bytes.len - n};
    }
}

static int
value_of(char c, enum base64_form form)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == alphabets[form][62]) return 62;
    return c == alphabets[form][63] ? 63 : -1;
}

bool
base64_decode(struct slice text, enum base64_form form, char *out, size_t *len)
{
    uint32_t word = 0;
    unsigned bits = 0;
    *len = 0;
    if (form == BASE64_STANDARD) {
        if (text.len % 4 != 0) return false;
        for (int i = 0; i < 2 && text.len > 0 && text.at[text.len - 1] == '='; i++)
            text.len--;
    }
    if (text.len % 4 == 1) return false;
    for (size_t i = 0; i < text.len; i++) {
        int value = value_of(text.at[i], form);
        if (value < 0) return false;
        word = word << 6 | (uint32_t)value;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        out[(*len)++] = (char)(word >> bits & 0xff);
    }
    return (word & ((1u << bits) - 1)) == 0;
}
