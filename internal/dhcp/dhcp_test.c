#include "internal/dhcp/dhcp.h"

#include "internal/base/rand.h"
#include "internal/dhcp/dhcp_test.h"
#include "internal/t/t.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- messages ---- */

/* The least message of a type, with options appended by hand. */
static struct span message(struct buf *b, const char *opts_hex) {
    buf_reset(b);
    buf_add(b, "\x01\x01\x06\x00\x12\x34\x56\x78", 8); /* op, htype, hlen, hops, xid */
    buf_zero(b, 4 + 16);
    buf_add(b, "\x52\x54\x00\x77\x00\x01", 6);
    buf_zero(b, 10 + 64 + 128);
    buf_add(b, "\x63\x82\x53\x63", 4);
    assert_int_equal(0, hex_decode(b, span_str(opts_hex)));
    return buf_view(b);
}

TEST(dhcp, parse_table) {
    static const struct {
        const char *name, *opts;
        const char *why; /* NULL: valid */
    } rows[] = {
        {"discover", "350101ff", NULL},
        {"without END", "350101", NULL},
        {"padding inside", "000035010100ff", NULL},
        {"nothing after END counts", "350101ff3501", NULL},
        {"code without length", "35010132", "option runs past the end"},
        {"value runs out", "3501013204ffff", "option runs past the end"},
        {"type of two bytes", "35020101ff", "option with an impossible length"},
        {"address of three bytes", "3501013203010203ff", "option with an impossible length"},
        {"address list of five bytes", "35010106050102030405ff",
         "option with an impossible length"},
        {"empty option", "3501013d00ff", NULL},
        {"unknown option", "350101fe0401020304ff", NULL},
        {"an address in two pieces", "35010132020a4d32020063ff", NULL},
    };
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_IN);
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *why = NULL;
        int rc = dhcp_msg_parse(m, message(&b, rows[i].opts), &why);
        if (rc != (rows[i].why ? -ERR_INVALID : 0) || !str_eq(why, rows[i].why)) {
            fail_msg("%s: %d %s", rows[i].name, rc, why ? why : "");
        }
    }
    ASSERT_EQ(0x0a4d0063, dhcp_get_ip(m, DHCP_OPT_REQUESTED_IP, 0));
    ASSERT_EQ(DHCP_DISCOVER, m->type);
    ASSERT_EQ(0x12345678, m->xid);
    free(m);
}

TEST(dhcp, parse_headers) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_IN + 1);
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    const char *why;
    struct span s = message(&b, "350101ff");
    for (size_t n = 0; n < DHCP_HEADER; n++) {
        ASSERT_ERR(-ERR_INVALID, dhcp_msg_parse(m, span_of(s.p, n), &why));
        ASSERT_STREQ("message too short", why);
    }
    b.p[2] = 17;
    ASSERT_ERR(-ERR_INVALID, dhcp_msg_parse(m, buf_view(&b), &why));
    b.p[2] = 16;
    ASSERT_ERR(0, dhcp_msg_parse(m, buf_view(&b), &why));
    b.p[0] = 3;
    ASSERT_ERR(-ERR_INVALID, dhcp_msg_parse(m, buf_view(&b), &why));
    b.p[0] = 1;
    b.p[239] = 0;
    ASSERT_ERR(-ERR_INVALID, dhcp_msg_parse(m, buf_view(&b), &why));
    ASSERT_STREQ("no DHCP cookie", why);
    b.p[239] = 0x63;
    buf_zero(&b, LIM_DHCP_IN + 1 - b.n);
    ASSERT_ERR(-ERR_INVALID, dhcp_msg_parse(m, buf_view(&b), &why));
    ASSERT_STREQ("message too long", why);
    free(m);
}

TEST(dhcp, overload_reads_file_then_sname) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_IN);
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    const char *why;
    message(&b, "340103350101ff");
    memcpy(b.p + 108,
           "\x0c\x02"
           "ab\xff",
           5); /* file */
    memcpy(b.p + 44,
           "\x0c\x01"
           "c\x0f\x01"
           "d\xff",
           7); /* sname */
    ASSERT_ERR(0, dhcp_msg_parse(m, buf_view(&b), &why));
    ASSERT_SPAN("abc", m->opt[DHCP_OPT_HOSTNAME]);
    ASSERT_SPAN("d", m->opt[DHCP_OPT_DOMAIN]);
    ASSERT_EQ(0, m->file.n);
    memcpy(b.p + 108, "\x0c\xff", 2); /* runs past its field */
    ASSERT_ERR(-ERR_INVALID, dhcp_msg_parse(m, buf_view(&b), &why));
    free(m);
}

TEST(dhcp, write_orders_splits_and_overloads) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_IN);
    struct dhcp_msg m = {.op = 2, .htype = 1, .hlen = 6}, *back = new_zero(struct dhcp_msg);
    struct dhcp_opts o = {.n = 0};
    uint8_t big[300];
    const char *why;
    memset(big, 'x', sizeof(big));
    dhcp_opts_add(&o, DHCP_OPT_AGENT, true, SPAN_LIT("agent"));
    dhcp_opts_add(&o, DHCP_OPT_HOSTNAME, false, span_of(big, 200));
    dhcp_opts_add(&o, DHCP_OPT_VENDOR, true, span_of(big, 300));
    dhcp_opts_u8(&o, DHCP_OPT_TYPE, true, DHCP_ACK);
    dhcp_opts_u8(&o, DHCP_OPT_TYPE, true, DHCP_NAK); /* a second value is ignored */
    ASSERT_ERR(0, dhcp_msg_write(&m, &o, 1472, &b));
    ASSERT_ERR(0, dhcp_msg_parse(back, buf_view(&b), &why));
    ASSERT_EQ(300, back->opt[DHCP_OPT_VENDOR].n); /* two pieces on the wire */
    ASSERT_EQ(DHCP_ACK, back->type);
    ASSERT(memcmp(b.p + b.n - 8,
                  "\x52\x05"
                  "agent\xff",
                  8) == 0); /* option 82 is last */

    buf_reset(&b);
    ASSERT_ERR(0,
               dhcp_msg_write(&m, &o, 576,
                              &b)); /* 332 bytes for 304 + 3 + 7: the host name finds no room … */
    ASSERT_ERR(0, dhcp_msg_parse(back, buf_view(&b), &why));
    ASSERT(!dhcp_has(back, DHCP_OPT_HOSTNAME));
    o.v[1].n = 100; /* … but 100 bytes of it fit the file field */
    buf_reset(&b);
    ASSERT_ERR(0, dhcp_msg_write(&m, &o, 576, &b));
    ASSERT_ERR(0, dhcp_msg_parse(back, buf_view(&b), &why));
    ASSERT_EQ(100, back->opt[DHCP_OPT_HOSTNAME].n);
    ASSERT_EQ(1, back->opt[DHCP_OPT_OVERLOAD].p[0]);

    buf_reset(&b);
    ASSERT_ERR(-ERR_LIMIT, dhcp_msg_write(&m, &o, 400, &b)); /* what must be there does not fit */
    free(back);
}

TEST(dhcp, write_pads_to_300) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_IN);
    struct dhcp_msg m = {.op = 2};
    struct dhcp_opts o = {.n = 0};
    ASSERT_ERR(0, dhcp_msg_write(&m, &o, 548, &b));
    ASSERT_EQ(300, b.n);
}

TEST(dhcp, options_have_limits) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_IN);
    struct dhcp_msg m = {.op = 2};
    struct dhcp_opts *o = new_zero(struct dhcp_opts);
    for (unsigned i = 1; i <= LIM_DHCP_OPTS_OUT + 1; i++) {
        dhcp_opts_u8(o, (uint8_t)i, false, 1);
    }
    ASSERT(o->failed);
    ASSERT_ERR(-ERR_LIMIT, dhcp_msg_write(&m, o, 1472, &b));
    free(o);
}

/* ---- options as text ---- */

TEST(dhcp, option_values_from_text) {
    static const struct {
        uint8_t code;
        const char *text, *hex; /* NULL: refused */
    } rows[] = {
        {DHCP_OPT_DNS, "10.0.0.1, 10.0.0.2", "0a0000010a000002"},
        {DHCP_OPT_DNS, "10.0.0.256", NULL},
        {DHCP_OPT_DNS, "", NULL},
        {DHCP_OPT_SUBNET_MASK, "255.255.255.0", "ffffff00"},
        {DHCP_OPT_SUBNET_MASK, "255.255.255.0,1.1.1.1", NULL},
        {DHCP_OPT_MTU, "1400", "0578"},
        {DHCP_OPT_MTU, "65536", NULL},
        {DHCP_OPT_LEASE_TIME, "4294967295", "ffffffff"},
        {DHCP_OPT_DOMAIN, "lab.test", "6c61622e74657374"},
        {DHCP_OPT_DOMAIN, "", NULL},
        {DHCP_OPT_VENDOR, "06:01:08:ff", "060108ff"},
        {224, "0a0b", "0a0b"}, /* no row in the table: bytes */
        {224, "0a0", NULL},
        {224, "zz", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        AUTO(buf) struct buf b = BUF_INIT(256), hex = BUF_INIT(512);
        int rc = dhcp_opt_from_text(rows[i].code, span_str(rows[i].text), &b);
        hex_encode(&hex, buf_view(&b));
        if ((rc < 0) != !rows[i].hex || (rows[i].hex && !str_eq(buf_cstr(&hex), rows[i].hex))) {
            fail_msg("option %u \"%s\": %d %s", rows[i].code, rows[i].text, rc, buf_cstr(&hex));
        }
    }
}

TEST(dhcp, hardware_addresses_as_text) {
    static const struct {
        const char *text, *canonical; /* NULL: refused */
    } rows[] = {
        {"52:54:00:77:00:0A", "52:54:00:77:00:0a"},
        {"52-54-00-77-00-0a", "52:54:00:77:00:0a"},
        {"52540077000a", "52:54:00:77:00:0a"},
        {"52:54:00:77:00", NULL},
        {"52:54-00:77:00:0a", NULL},
        {"52:54:00:77:00:0a:", NULL},
        {"52:54:00:77:00:g0", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct dhcp_hw hw = {0, {0}};
        char text[DHCP_HW_STR];
        int rc = dhcp_hw_parse(span_str(rows[i].text), &hw);
        dhcp_hw_format(hw, ':', text);
        if ((rc < 0) != !rows[i].canonical ||
            (rows[i].canonical && !str_eq(text, rows[i].canonical))) {
            fail_msg("\"%s\": %d %s", rows[i].text, rc, text);
        }
    }
}

/* ---- who is asking ---- */

TEST(dhcp, clients_are_recognised) {
    static const struct {
        const char *opts;
        enum dhcp_stage stage;
        int arch;
    } rows[] = {
        {"350101ff", DHCP_STAGE_OS, -1},
        {"3c09505845436c69656e74ff", DHCP_STAGE_PXE, -1}, /* PXEClient, no option 93 */
        {"3c09505845436c69656e745d020007ff", DHCP_STAGE_PXE, 7},
        {"3c0a48545450436c69656e745d020010ff", DHCP_STAGE_HTTP, 16},
        {"3c09505845436c69656e745d0200004d0469505845ff", DHCP_STAGE_IPXE,
         0}, /* user class as iPXE writes it */
        {"3c09505845436c69656e745d0200004d050469505845ff", DHCP_STAGE_IPXE,
         0}, /* as RFC 3004 wants it */
        {"3c09505845436c69656e745d020007af03010203ff", DHCP_STAGE_IPXE, 7}, /* option 175 alone */
        {"3c09505845436c69656e745d0406660007ff", DHCP_STAGE_PXE,
         7}, /* a list: the first that is known */
        {"3c09505845436c69656e745d020666ff", DHCP_STAGE_PXE, 0x666},
        {"4d0969505845206c696b65ff", DHCP_STAGE_OS, -1}, /* "iPXE like" */
    };
    AUTO(buf) struct buf b = BUF_INIT(LIM_DHCP_IN);
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *why;
        ASSERT_ERR(0, dhcp_msg_parse(m, message(&b, rows[i].opts), &why));
        struct dhcp_client c = dhcp_client_of(m);
        if (c.stage != rows[i].stage || (c.has_arch ? c.arch : -1) != rows[i].arch) {
            fail_msg("row %zu: stage %d arch %d", i, (int)c.stage, c.has_arch ? c.arch : -1);
        }
    }
    free(m);
}

/* ---- golden files: what real firmware sends, and what we answered when it booted ---- */

void dhcp_test_dump(const struct dhcp_msg *m, struct buf *b) {
    char hw[DHCP_HW_STR], ip[IP4_STR];
    struct dhcp_hw h = {m->hlen, {0}};
    const uint32_t addrs[] = {m->ciaddr, m->yiaddr, m->siaddr, m->giaddr};
    memcpy(h.b, m->chaddr, DHCP_HW_MAX);
    dhcp_hw_format(h, ':', hw);
    buf_fmt(b, "%s op=%u htype=%u hops=%u xid=%08x secs=%u flags=%04x chaddr=%s\n",
            dhcp_type_name(m->type), m->op, m->htype, m->hops, m->xid, m->secs, m->flags, hw);
    for (size_t i = 0; i < ARRAY_LEN(addrs); i++) {
        static const char *const names[] = {"ciaddr", "yiaddr", "siaddr", "giaddr"};
        ip4_format(addrs[i], ip);
        buf_fmt(b, "%s%s=%s", i ? " " : "", names[i], ip);
    }
    buf_fmt(b, " file=%.*s\n", SPAN_FMT(m->file));
    for (unsigned c = 0; c < 256; c++) {
        enum dhcp_kind kind;
        if (m->opt[c].p) {
            buf_fmt(b, "%u %s ", c, dhcp_opt_name((uint8_t)c, &kind));
            if (kind == DHCP_K_TEXT) {
                buf_span(b, m->opt[c]);
            } else {
                hex_encode(b, m->opt[c]);
            }
            buf_u8(b, '\n');
        }
    }
}

TEST(dhcp, golden) {
    static const char *const names[] = {
        "ipxe-bios-discover", "ipxe-bios-offer",    "ipxe-bios-request",
        "ipxe-efi-discover",  "ovmf-pxe-discover",  "ovmf-pxe-request",
        "ovmf-pxe-ack",       "ovmf-http-discover", "ovmf-http-ack"};
    struct dhcp_msg *m = new_zero(struct dhcp_msg);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        AUTO(buf)
        struct buf pkt = BUF_INIT(LIM_DHCP_IN), want = BUF_INIT(1 << 16), got = BUF_INIT(1 << 16);
        AUTO_FREE char *bin = str_fmt("%s/dhcp/golden/%s.bin", t_testdata(), names[i]);
        AUTO_FREE char *txt = str_fmt("%s/dhcp/golden/%s.txt", t_testdata(), names[i]);
        const char *why;
        ASSERT_ERR(0, t_read_file(bin, &pkt));
        ASSERT_ERR(0, dhcp_msg_parse(m, buf_view(&pkt), &why));
        dhcp_test_dump(m, &got);
        if (getenv("KF_GOLDEN_WRITE")) {
            FILE *f = fopen(txt, "we");
            ASSERT(f);
            fputs(buf_cstr(&got), f);
            fclose(f);
        }
        ASSERT_ERR(0, t_read_file(txt, &want));
        ASSERT_STREQ(buf_cstr(&want), buf_cstr(&got));
    }
    free(m);
}

/* ---- properties (the functions are also fuzz targets) ---- */

TEST(dhcp, property_write_then_parse) {
    t_property("write_then_parse", dhcp_prop_write_then_parse, 3000, 600);
}
TEST(dhcp, property_parse_survives) {
    t_property("parse", dhcp_prop_parse, 3000, 700);
}
TEST(dhcp, property_record) {
    t_property("record", dhcp_prop_record, 3000, 300);
}
TEST(dhcp, property_server) {
    t_property("server", dhcp_prop_server, 400, 2000);
}
