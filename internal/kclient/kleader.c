#include "internal/base/rand.h"
#include "internal/kclient/kclient_int.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"

#include <stdlib.h>
#include <sys/utsname.h>

/* As client-go elects: who writes the Lease first, or finds it released or not renewed for its duration, leads. Clocks are
 * not compared: what counts is how long the Lease has looked the same to us. It is asked for and not watched, because the
 * roles of upstream's components allow no more.
 *
 *   look ── somebody leads ──────────────► look again after RETRY
 *    ▲ └─── nobody does ──► write ── done ──► lead: write again every RETRY
 *    └───── lost the race ◄───┘               └── not done for RENEW, or another is named: lost
 */
enum { DURATION_S = 15, RENEW_S = 10, RETRY_MS = 2000 };

struct kleader {
    struct kclient *c;
    struct kref ref;
    struct kleader_opts o;
    char *identity;
    struct json_doc *last; /* the Lease as the server told it last; NULL: to be asked for */
    char seen[TIME_STR];   /* its renewTime, */
    uint64_t seen_ns;      /* and when we saw it first */
    uint64_t began_ns;     /* the attempt under way */
    struct loop_timer again, deadline;
    struct loop_hook end;
    bool leads, is_busy, is_lost;
    void (*stopped)(void *ctx);
};

static void look(struct kleader *k);
static void release(struct kleader *k);

static const char *holder(const struct kleader *k) {
    return json_str_or(json_at(json_root(k->last), "spec", "holderIdentity"), "");
}

static void forget(struct kleader *k) {
    json_doc_free(k->last);
    k->last = NULL;
}

static void remember(struct kleader *k, const struct json *obj) {
    forget(k);
    k->last = json_doc_new();
    json_set_root(k->last, json_copy(k->last, obj));
    const char *renewed = json_str_or(json_at(obj, "spec", "renewTime"), "");
    if (!k->seen_ns || !str_eq(renewed, k->seen)) {
        k->seen_ns = loop_now(k->c->l);
        IGNORE_ERR(str_put(k->seen, sizeof(k->seen), "%.*s", TIME_STR - 1, renewed), "cut to fit");
    }
}

static bool is_free(const struct kleader *k) {
    int64_t s = json_i64_at(json_root(k->last), DURATION_S, "spec", "leaseDurationSeconds");
    s = s > 0 && s < 3600 ? s : DURATION_S;
    return !*holder(k) || loop_now(k->c->l) >= k->seen_ns + (uint64_t)s * NS_PER_S;
}

static void lost(struct kleader *k, const char *why) {
    LOG_WARN("kclient", "no leader any more", F_STR("lease", k->o.name), F_STR("reason", why));
    k->leads = false;
    k->is_lost = true;
    loop_timer_stop(&k->again);
    loop_timer_stop(&k->deadline);
    k->o.on_lost(k->o.ctx);
}

static void on_deadline(struct loop_timer *t) {
    lost(CONTAINER_OF(t, struct kleader, deadline), "the lease could not be renewed in time");
}

static void on_again(struct loop_timer *t) {
    look(CONTAINER_OF(t, struct kleader, again));
}

static void on_end(void *ctx) {
    struct kleader *k = ctx;
    k->stopped(k->o.ctx);
}

/* An attempt is over. */
static void rest(struct kleader *k) {
    k->is_busy = false;
    if (k->stopped) {
        release(k);
    } else if (!k->is_lost) {
        uint64_t ms = RETRY_MS + (k->leads ? 0 : rand_below(RETRY_MS / 5));
        loop_timer_start(k->c->l, &k->again, ms * NS_PER_MS, on_again, k->o.name);
    }
}

static void won(struct kleader *k) {
    uint64_t now = loop_now(k->c->l), due = k->began_ns + RENEW_S * NS_PER_S;
    loop_timer_stop(&k->deadline);
    loop_timer_start(k->c->l, &k->deadline, due > now ? due - now : 0, on_deadline, k->o.name);
    if (!k->leads) {
        k->leads = true;
        if (k->stopped) {
            return;
        }
        LOG_INFO("kclient", "leader", F_STR("lease", k->o.name), F_STR("identity", k->identity));
        k->o.on_lead(k->o.ctx);
    }
}

static void on_written(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kleader *k = ctx;
    bool raced = rc == -ERR_CONFLICT || rc == -ERR_EXISTS || rc == -ERR_NOT_FOUND;
    if (rc < 0) {
        LOG_DEBUG("kclient", "lease not written", F_STR("lease", k->o.name), F_ERR(e));
    } else if (!k->is_lost) {
        remember(k, obj);
        won(k);
    }
    if (raced) {
        forget(k); /* after other failures it may be as we know it: the next write tells */
    }
    if (raced && k->leads && !k->stopped) {
        look(k); /* somebody changed something in it, or took it */
        return;
    }
    rest(k);
}

/* Writes us into what the server told last; `leaving`: nobody. */
static void write_lease(struct kleader *k, bool leaving, kclient_cb *done) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o =
        k->last ? json_copy(d, json_root(k->last))
                : kube_object_new(d, "coordination.k8s.io/v1", "Lease", k->ref.ns, k->o.name);
    struct json *spec = json_need_obj(d, o, "spec");
    struct kref r = k->ref;
    char now[TIME_STR];
    time_rfc3339_micro(clock_wall_ns(), now);
    if (leaving || !str_eq(holder(k), k->identity)) {
        json_set_str(d, spec, "acquireTime", now);
        if (!leaving && k->last) {
            json_set_i64(d, spec, "leaseTransitions",
                         json_i64(json_get(spec, "leaseTransitions"), 0) + 1);
        }
    }
    json_set_str(d, spec, "holderIdentity", leaving ? "" : k->identity);
    json_set_i64(d, spec, "leaseDurationSeconds", leaving ? 1 : DURATION_S);
    json_set_str(d, spec, "renewTime", now);
    r.name = k->last ? k->o.name : NULL;
    if (k->last) {
        kupdate(k->c, &r, o, done, k);
    } else {
        kcreate(k->c, &r, o, done, k);
    }
}

static void on_seen(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kleader *k = ctx;
    if (rc == 0) {
        remember(k, obj);
    } else if (rc == -ERR_NOT_FOUND) {
        forget(k);
    } else {
        LOG_DEBUG("kclient", "lease not read", F_STR("lease", k->o.name), F_ERR(e));
    }
    bool ours = rc == 0 && str_eq(holder(k), k->identity);
    if (k->leads && rc == 0 && !ours) {
        lost(k, "another took the lease");
    }
    if (!k->stopped && !k->is_lost && (rc == -ERR_NOT_FOUND || ours || (rc == 0 && is_free(k)))) {
        write_lease(k, false, on_written);
        return;
    }
    if (!k->leads) {
        forget(k);
    }
    rest(k);
}

static void look(struct kleader *k) {
    struct kref r = k->ref;
    k->is_busy = true;
    k->began_ns = loop_now(k->c->l);
    if (k->leads && k->last) {
        write_lease(k, false, on_written);
        return;
    }
    r.name = k->o.name;
    kget(k->c, &r, on_seen, k);
}

struct kleader *kleader_start(struct kclient *c, const struct kleader_opts *o) {
    struct kleader *k = new_zero(struct kleader);
    struct utsname host;
    char uuid[37];
    CHECK(uname(&host) == 0);
    rand_uuid(uuid);
    k->c = c;
    k->o = *o;
    k->identity = str_fmt("%s_%s", host.nodename, uuid);
    k->ref = (struct kref){
        .group = "coordination.k8s.io", .version = "v1", .resource = "leases", .ns = "kube-system"};
    look(k);
    return k;
}

static void on_released(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kleader *k = ctx;
    (void)obj;
    if (rc < 0) {
        LOG_INFO("kclient", "lease not released, it will run out", F_STR("lease", k->o.name),
                 F_ERR(e));
    }
    k->leads = k->is_busy = false;
    release(k);
}

static void release(struct kleader *k) {
    loop_timer_stop(&k->again);
    loop_timer_stop(&k->deadline);
    if (k->leads && k->last) {
        k->is_busy = true;
        write_lease(k, true, on_released);
    } else {
        loop_before_sleep(k->c->l, &k->end, on_end, k);
    }
}

void kleader_stop(struct kleader *k, void (*stopped)(void *ctx)) {
    k->stopped = stopped;
    if (!k->is_busy) {
        release(k);
    }
}

void kleader_free(struct kleader *k) {
    if (!k) {
        return;
    }
    loop_timer_stop(&k->again);
    loop_timer_stop(&k->deadline);
    loop_hook_cancel(&k->end);
    forget(k);
    free(k->identity);
    free(k);
}
