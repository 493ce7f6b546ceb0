/* Leader election among processes that share a Lease, on one loop with virtual time. */
#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/kclient/kclient.h"
#include "internal/kube/kube.h"
#include "internal/sys/sys.h"
#include "internal/t/t.h"

#include <stdlib.h>
#include <unistd.h>

/* An API server of the one Lease. */
struct server {
    struct loop *l;
    struct http_server *s;
    char dir[32];
    struct json_doc *lease; /* NULL: there is none */
    int64_t rv;
    const char *deaf_to; /* requests of this user agent fail */
};

struct voter {
    struct kclient *c;
    struct kleader *k;
    bool leads, lost, stopped;
};

static void answer(struct http_req *r, const struct server *s, unsigned status) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    const char *reason = status == 409 ? "Conflict" : "NotFound";
    if (status < 300) {
        json_write(json_root(s->lease), 0, &b);
    } else {
        buf_fmt(&b, "{\"kind\":\"Status\",\"reason\":\"%s\"}", reason);
    }
    http_respond(r, status, "application/json", NULL, 0, buf_view(&b));
}

static void on_body(struct http_req *r, int rc, struct span body, void *ctx) {
    struct server *s = ctx;
    struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    ASSERT_EQ(0, rc);
    ASSERT_OK(json_parse(body, 0, &d, &e), &e);
    bool creates = span_eq_str(http_req_method(r), "POST");
    if (creates == (s->lease != NULL) ||
        (!creates && !str_eq(kube_rv(json_root(d)), kube_rv(json_root(s->lease))))) {
        json_doc_free(d);
        answer(r, s, 409);
        return;
    }
    json_doc_free(s->lease);
    s->lease = d;
    json_set(d, json_get(json_root(d), "metadata"), "resourceVersion",
             json_new_fmt(d, "%lld", (long long)++s->rv));
    answer(r, s, creates ? 201 : 200);
}

static void on_request(struct http_req *r, void *ctx) {
    struct server *s = ctx;
    if (s->deaf_to && span_eq_str(http_req_header(r, "user-agent"), s->deaf_to)) {
        http_respond(r, 503, "text/plain", NULL, 0, SPAN_LIT("away"));
    } else if (span_eq_str(http_req_method(r), "GET")) {
        ASSERT_SPAN("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
                    http_req_path(r));
        answer(r, s, s->lease ? 200 : 404);
    } else {
        http_req_read_body(r, 4096, on_body, s);
    }
}

static void server_start(struct server *s) {
    struct err e = ERR_INIT;
    *s = (struct server){.rv = 1};
    IGNORE_ERR(str_put(s->dir, sizeof(s->dir), "/tmp/kf-test-XXXXXX"), "fits");
    ASSERT(mkdtemp(s->dir) != NULL);
    AUTO_FREE char *path = str_fmt("%s/api.sock", s->dir);
    ASSERT_OK(loop_new_virtual(&s->l, NS_PER_S, &e), &e);
    struct http_server_opts so = {.handler = {on_request, s}, .h2c = true, .name = "fake"};
    ASSERT_OK(http_server_new(s->l, &so, &s->s, &e), &e);
    int fd = sys_listen_unix(path, 0600, &e);
    ASSERT(fd >= 0);
    ASSERT_OK(http_server_listen(s->s, fd, &e), &e);
}

static void server_stop(struct server *s) {
    struct err e = ERR_INIT;
    http_server_free(s->s);
    loop_free(s->l);
    json_doc_free(s->lease);
    ASSERT_OK(sys_rmtree(AT_FDCWD, s->dir, &e), &e);
}

static void on_lead(void *ctx) {
    ((struct voter *)ctx)->leads = true;
}

static void on_lost(void *ctx) {
    struct voter *v = ctx;
    v->lost = true;
    v->leads = false;
}

static void on_stopped(void *ctx) {
    ((struct voter *)ctx)->stopped = true;
}

static void voter_start(struct server *s, struct voter *v, const char *agent) {
    struct err e = ERR_INIT;
    AUTO_FREE char *url = str_fmt("unix://%s/api.sock", s->dir);
    const struct kclient_opts ko = {.server = url, .user_agent = agent};
    const struct kleader_opts lo = {"x", on_lead, on_lost, v};
    *v = (struct voter){0};
    ASSERT_OK(kclient_new(s->l, &ko, &v->c, &e), &e);
    v->k = kleader_start(v->c, &lo);
}

/* How long it takes until *flag, in whole seconds. */
static uint64_t seconds_until(struct server *s, const bool *flag) {
    struct err e = ERR_INIT;
    uint64_t from = loop_now(s->l), end = from + 60 * NS_PER_S;
    while (!*flag && loop_now(s->l) < end) {
        ASSERT_OK(loop_step(s->l, NS_PER_S, &e), &e);
    }
    ASSERT(*flag);
    return (loop_now(s->l) - from) / NS_PER_S;
}

static void pass(struct server *s, uint64_t seconds) {
    struct err e = ERR_INIT;
    uint64_t end = loop_now(s->l) + seconds * NS_PER_S;
    while (loop_now(s->l) < end) {
        ASSERT_OK(loop_step(s->l, end - loop_now(s->l), &e), &e);
    }
}

static void voter_stop(struct server *s, struct voter *v) {
    kleader_stop(v->k, on_stopped);
    ASSERT(!v->stopped);
    seconds_until(s, &v->stopped);
    kleader_free(v->k);
    kclient_free(v->c);
}

static const char *holder(const struct server *s) {
    return json_str_at(json_root(s->lease), "spec", "holderIdentity");
}

TEST(kleader, a_free_lease_is_taken_at_once_and_given_back) {
    struct server s;
    struct voter a, b;
    server_start(&s);
    voter_start(&s, &a, "a");
    ASSERT_EQ(0, seconds_until(&s, &a.leads));
    ASSERT_EQ(15, json_i64_at(json_root(s.lease), 0, "spec", "leaseDurationSeconds"));
    voter_start(&s, &b, "b");
    pass(&s, 40);
    ASSERT(a.leads && !b.leads);
    voter_stop(&s, &a);
    ASSERT(!a.lost);
    ASSERT(seconds_until(&s, &b.leads) <= 2);
    ASSERT_EQ(1, json_i64_at(json_root(s.lease), 0, "spec", "leaseTransitions"));
    /* One that waits has nothing to give back. */
    voter_start(&s, &a, "a");
    pass(&s, 3);
    voter_stop(&s, &a);
    ASSERT(b.leads && !b.lost);
    voter_stop(&s, &b);
    ASSERT_STREQ("", holder(&s));
    voter_start(&s, &a, "a");
    ASSERT_EQ(0, seconds_until(&s, &a.leads));
    voter_stop(&s, &a);
    server_stop(&s);
}

TEST(kleader, who_cannot_renew_stops_before_another_begins) {
    struct server s;
    struct voter a, b;
    server_start(&s);
    voter_start(&s, &a, "a");
    seconds_until(&s, &a.leads);
    voter_start(&s, &b, "b");
    pass(&s, 5);
    s.deaf_to = "a";
    uint64_t lost = seconds_until(&s, &a.lost);
    ASSERT(lost >= 7 && lost <= 10);
    ASSERT(!b.leads);
    uint64_t led = lost + seconds_until(&s, &b.leads);
    ASSERT(led >= 12 && led <= 18);
    voter_stop(&s, &a);
    voter_stop(&s, &b);
    server_stop(&s);
}

TEST(kleader, given_back_right_after_trouble) {
    struct server s;
    struct voter a;
    server_start(&s);
    voter_start(&s, &a, "a");
    seconds_until(&s, &a.leads);
    s.deaf_to = "a";
    pass(&s, 3);
    s.deaf_to = NULL;
    voter_stop(&s, &a);
    ASSERT_STREQ("", holder(&s));
    server_stop(&s);
}

TEST(kleader, short_trouble_and_foreign_hands) {
    struct server s;
    struct voter a;
    server_start(&s);
    voter_start(&s, &a, "a");
    seconds_until(&s, &a.leads);
    s.deaf_to = "a";
    pass(&s, 6);
    s.deaf_to = NULL;
    pass(&s, 20);
    ASSERT(a.leads);
    /* The Lease goes away, or is changed: it is ours again. */
    json_doc_free(TAKE(s.lease));
    pass(&s, 5);
    ASSERT(a.leads && s.lease != NULL);
    json_set(s.lease, json_get(json_root(s.lease), "metadata"), "resourceVersion",
             json_new_str(s.lease, "999"));
    pass(&s, 20);
    ASSERT(a.leads);
    /* Another name in it: that is the leader now. */
    json_set(s.lease, json_get(json_root(s.lease), "metadata"), "resourceVersion",
             json_new_str(s.lease, "1000"));
    json_set_str(s.lease, json_get(json_root(s.lease), "spec"), "holderIdentity", "else");
    ASSERT(seconds_until(&s, &a.lost) <= 2);
    voter_stop(&s, &a);
    ASSERT_STREQ("else", holder(&s));
    server_stop(&s);
}
