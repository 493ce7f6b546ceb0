#include "internal/base/rand.h"
#include "internal/kclient/kclient_int.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum {
    LIM_SERIES = 256,      /* remembered events; the oldest is forgotten */
    LIM_BUDGETS = 512,     /* objects whose rate is watched; then all begin anew */
    BURST = 25,            /* new records for one object at once */
    REFILL_S = 300,        /* and then one each */
    LIM_EVENT_TEXT = 1024, /* the API's limit of message */
};

/* An event that was written, and may be raised. */
struct series {
    struct list link; /* oldest first */
    char *key;
    char *ns, *name;
    char first[TIME_STR];
    int64_t count;
    bool is_busy, again; /* a request is on its way; more happened meanwhile */
    bool is_dead;        /* forgotten while busy */
    struct kevents *v;
};

struct budget {
    unsigned left;
    uint64_t last_ns;
};

struct kevents {
    struct kclient *c;
    char *component, *host;
    struct map series;
    struct map budgets; /* by uid */
    struct list order;
};

struct kevents *kevents_new(struct kclient *c, const char *component, const char *host) {
    struct kevents *v = new_zero(struct kevents);
    v->c = c;
    v->component = str_dup(component);
    v->host = host ? str_dup(host) : NULL;
    list_init(&v->order);
    return v;
}

static void series_free(struct series *s) {
    free(s->key);
    free(s->ns);
    free(s->name);
    free(s);
}

static void forget(struct kevents *v, struct series *s) {
    map_del_str(&v->series, s->key);
    list_del(&s->link);
    if (s->is_busy) {
        s->is_dead = true;
        s->v = NULL;
    } else {
        series_free(s);
    }
}

void kevents_free(struct kevents *v) {
    if (!v) {
        return;
    }
    for (LIST_EACH(n, next, &v->order)) {
        forget(v, CONTAINER_OF(n, struct series, link));
    }
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&v->budgets, &it, &en)) {
        free(en->value);
    }
    map_fini(&v->budgets);
    map_fini(&v->series);
    free(v->component);
    free(v->host);
    free(v);
}

static void bump(struct series *s);

static void on_written(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct series *s = ctx;
    (void)obj;
    s->is_busy = false;
    if (s->is_dead) {
        series_free(s);
        return;
    }
    if (rc < 0) {
        /* The namespace may be going away, or the event was deleted: the next occurrence begins anew. */
        LOG_DEBUG("kclient", "event not recorded", F_STR("event", s->name), F_ERR(e));
        forget(s->v, s);
    } else if (s->again) {
        s->again = false;
        bump(s);
    }
}

static void bump(struct series *s) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *p = json_new_obj(d);
    char now[TIME_STR];
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    json_set_i64(d, p, "count", s->count);
    json_set_str(d, p, "lastTimestamp", now);
    struct kref r = {"", "v1", "events", s->ns, s->name, NULL};
    s->is_busy = true;
    kpatch(s->v->c, &r, KPATCH_MERGE, p, NULL, on_written, s);
}

static bool may_write(struct kevents *v, const char *uid) {
    uint64_t now = loop_now(v->c->l);
    struct budget *b = map_get_str(&v->budgets, uid);
    if (!b) {
        if (v->budgets.n >= LIM_BUDGETS) {
            struct map_iter it = {0};
            struct map_entry *en;
            while (map_next(&v->budgets, &it, &en)) {
                struct budget *old = en->value;
                map_del(&v->budgets, span_of(en->key, en->n));
                free(old);
            }
        }
        b = new_zero(struct budget);
        b->left = BURST;
        b->last_ns = now;
        map_put_str(&v->budgets, uid, b);
    }
    uint64_t more = (now - b->last_ns) / (REFILL_S * NS_PER_S);
    if (more) {
        b->left = b->left + more > BURST ? BURST : b->left + (unsigned)more;
        b->last_ns = now;
    }
    if (!b->left) {
        return false;
    }
    b->left--;
    return true;
}

static void create(struct series *s, const struct json *obj, const char *type, const char *reason,
                   struct span message) {
    struct kevents *v = s->v;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *ev = kube_object_new(d, "v1", "Event", s->ns, s->name);
    struct json *inv = json_set_obj(d, ev, "involvedObject");
    json_set_str(d, inv, "kind", json_str(json_get(obj, "kind")));
    if (*kube_namespace(obj)) {
        json_set_str(d, inv, "namespace", kube_namespace(obj));
    }
    json_set_str(d, inv, "name", kube_name(obj));
    json_set_str(d, inv, "uid", kube_uid(obj));
    json_set_str(d, inv, "apiVersion", json_str(json_get(obj, "apiVersion")));
    json_set_str(d, inv, "resourceVersion", kube_rv(obj));
    json_set_str(d, ev, "reason", reason);
    json_set(d, ev, "message", json_new_span(d, message));
    json_set_str(d, json_set_obj(d, ev, "source"), "component", v->component);
    if (v->host) {
        json_set_str(d, json_get(ev, "source"), "host", v->host);
    }
    json_set_str(d, ev, "firstTimestamp", s->first);
    json_set_str(d, ev, "lastTimestamp", s->first);
    json_set_i64(d, ev, "count", s->count);
    json_set_str(d, ev, "type", type);
    json_set(d, ev, "eventTime", json_new_null(d));
    json_set_str(d, ev, "reportingComponent", v->component);
    json_set_str(d, ev, "reportingInstance", v->host ? v->host : "");
    struct kref r = {"", "v1", "events", s->ns, NULL, NULL};
    s->is_busy = true;
    kcreate(v->c, &r, ev, on_written, s);
}

void kevent(struct kevents *v, const struct json *obj, const char *type, const char *reason,
            const char *fmt, ...) {
    AUTO(buf) struct buf msg = BUF_INIT(65536);
    va_list ap;
    va_start(ap, fmt);
    buf_vfmt(&msg, fmt, ap);
    va_end(ap);
    if (msg.n > LIM_EVENT_TEXT) {
        size_t n = LIM_EVENT_TEXT;
        while (n && (msg.p[n] & 0xc0) == 0x80) {
            n--; /* not in the middle of a character */
        }
        buf_trunc(&msg, n);
    }
    const char *uid = kube_uid(obj);
    AUTO_FREE char *key = str_fmt("%s|%s|%s|%s", uid, type, reason, buf_cstr(&msg));
    struct series *s = map_get_str(&v->series, key);
    if (!may_write(v, *uid ? uid : kube_name(obj))) {
        return;
    }
    if (s) {
        s->count++;
        if (s->is_busy) {
            s->again = true;
        } else {
            bump(s);
        }
        return;
    }
    if (v->series.n >= LIM_SERIES) {
        forget(v, CONTAINER_OF(v->order.next, struct series, link));
    }
    s = new_zero(struct series);
    s->v = v;
    s->key = str_dup(key);
    s->ns = str_dup(*kube_namespace(obj) ? kube_namespace(obj) : "default");
    s->name = str_fmt("%s.%llx", kube_name(obj), (unsigned long long)clock_wall_ns());
    s->count = 1;
    time_rfc3339(clock_wall_ns() / NS_PER_S, s->first);
    map_put_str(&v->series, key, s);
    list_add_tail(&v->order, &s->link);
    create(s, obj, type, reason, buf_view(&msg));
}
