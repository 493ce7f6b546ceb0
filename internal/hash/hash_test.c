/* Vectors of the standards. */
#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/t/t.h"

static const char *hex(const uint8_t *p, size_t n) {
    static char text[2 * HASH_SHA256 + 1];
    AUTO(buf) struct buf b = BUF_INIT(sizeof(text));
    hex_encode(&b, span_of(p, n));
    ASSERT_EQ(2 * n, b.n);
    memcpy(text, buf_cstr(&b), b.n + 1);
    return text;
}

TEST(hash, digests) {
    uint8_t d[HASH_SHA256];
    hash_sha1(SPAN_LIT("abc"), d);
    ASSERT_STREQ("a9993e364706816aba3e25717850c26c9cd0d89d", hex(d, HASH_SHA1));
    hash_sha256(SPAN_LIT("abc"), d);
    ASSERT_STREQ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                 hex(d, HASH_SHA256));
    struct hash *h = hash_new();
    hash_add(h, SPAN_LIT("a"));
    hash_add(h, SPAN_EMPTY);
    hash_add(h, SPAN_LIT("bc"));
    uint8_t parts[HASH_SHA256];
    hash_end(h, parts);
    assert_memory_equal(d, parts, HASH_SHA256);
    hash_sha256(SPAN_EMPTY, d);
    ASSERT_STREQ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                 hex(d, HASH_SHA256));
}

TEST(hash, hmac) { /* RFC 4231, test case 2 */
    uint8_t d[HASH_SHA256];
    hash_hmac_sha256(SPAN_LIT("Jefe"), SPAN_LIT("what do ya want for nothing?"), d);
    ASSERT_STREQ("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                 hex(d, HASH_SHA256));
}
