#include "internal/agent/agent_int.h"
#include "internal/t/t.h"

#include <stdlib.h>

TEST(agent, urls) {
    static const struct {
        const char *url, *host, *target;
        uint16_t port;
        bool is_tls;
    } good[] = {
        {"https://10.0.0.1:8070", "10.0.0.1", "/", 8070, true},
        {"http://10.0.0.1:8069/images/a/root.squashfs", "10.0.0.1", "/images/a/root.squashfs", 8069,
         false},
        {"http://h/x?y=1", "h", "/x?y=1", 80, false},
        {"https://h", "h", "/", 443, true},
    };
    static const char *const bad[] = {"",
                                      "ftp://x",
                                      "http//x",
                                      "http://",
                                      "http://:80/",
                                      "http://h:0/",
                                      "http://h:99999/",
                                      "http://h:x/",
                                      "https:/h"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct agent_url u;
        struct err e = ERR_INIT;
        ASSERT_OK(agent_url_parse(good[i].url, &u, &e), &e);
        ASSERT_STREQ(good[i].host, u.host);
        ASSERT_STREQ(good[i].target, u.target);
        ASSERT_EQ(good[i].port, u.port);
        ASSERT_EQ(good[i].is_tls, u.is_tls);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct agent_url u;
        struct err e = ERR_INIT;
        ASSERT_ERR(-ERR_INVALID, agent_url_parse(bad[i], &u, &e));
    }
}

TEST(agent, a_lease_survives_the_change_of_root) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct agent_lease in = {.ip = 0x0a000002,
                             .server = 0x0a000001,
                             .router = 0x0a000001,
                             .t1_s = 300,
                             .t2_s = 525,
                             .lease_s = 600,
                             .prefix_len = 24,
                             .mtu = 9000,
                             .dns = {1, 2},
                             .n_dns = 2,
                             .domain = "lab.test"};
    struct agent_lease out;
    ASSERT_EQ(0, agent_lease_from_json(agent_lease_to_json(d, &in), &out));
    ASSERT_EQ(in.ip, out.ip);
    ASSERT_EQ(in.prefix_len, out.prefix_len);
    ASSERT_EQ(in.mtu, out.mtu);
    ASSERT_EQ(2, out.n_dns);
    ASSERT_EQ(2, out.dns[1]);
    ASSERT_STREQ("lab.test", out.domain);
    ASSERT_ERR(-ERR_INVALID, agent_lease_from_json(json_new_obj(d), &out));
}
