#include "internal/kube/kube.h"
#include "internal/scheduler/sched_int.h"

#include <stdlib.h>

/* Amounts in the cache outlive the objects they were read from, so their names are kept once. */
static void intern_all(struct scache *c, struct pod_amounts *a) {
    for (size_t i = 0; i < a->n; i++) {
        char *name = map_get_str(&c->names, a->a[i].name);
        if (!name) {
            name = str_dup(a->a[i].name);
            map_put_str(&c->names, name, name);
        }
        a->a[i].name = name;
    }
}

static struct snode *node_of(struct scache *c, const char *name) {
    struct snode *n = map_get_str(&c->nodes, name);
    if (n) {
        return n;
    }
    if (c->n == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 8;
        c->arr = mem_array(c->arr, c->cap, sizeof(*c->arr), 1 << 20);
        CHECK(c->arr);
    }
    n = new_zero(struct snode);
    n->name = str_dup(name);
    list_init(&n->pods);
    n->pos = c->n;
    c->arr[c->n++] = n;
    map_put_str(&c->nodes, name, n);
    return n;
}

static void node_drop_if_empty(struct scache *c, struct snode *n) {
    if (n->obj || n->n_pods) {
        return;
    }
    map_del_str(&c->nodes, n->name);
    c->arr[n->pos] = c->arr[--c->n];
    c->arr[n->pos]->pos = n->pos;
    free(n->name);
    free(n);
}

static void account(struct spod *p, int sign) {
    struct snode *n = p->node;
    pod_amounts_add(&n->used, &p->req, sign);
    n->cpu += sign * p->cpu;
    n->mem += sign * p->mem;
    if (sign > 0) {
        list_add_tail(&n->pods, &p->link);
        n->n_pods++;
    } else {
        list_del(&p->link);
        n->n_pods--;
    }
}

static void pod_drop(struct scache *c, struct spod *p) {
    struct snode *n = p->node;
    account(p, -1);
    c->n_anti -= p->has_anti;
    map_del_str(&c->pods, p->uid);
    free(p->key);
    free(p);
    node_drop_if_empty(c, n);
}

static struct spod *pod_add(struct scache *c, const struct json *pod, struct snode *n) {
    const char *uid = kube_uid(pod);
    size_t len = strlen(uid) + 1;
    struct spod *p = mem_zero_alloc(sizeof(*p) + len);
    char key[LIM_KKEY];
    kkey_of(pod, key);
    memcpy(p->uid, uid, len);
    p->key = str_dup(key);
    p->node = n;
    pod_requests(pod, &p->req);
    intern_all(c, &p->req);
    pod_requests_nonzero(pod, &p->cpu, &p->mem);
    p->priority = json_i64_at(pod, 0, "spec", "priority");
    p->has_ports = pod_has_host_ports(pod);
    p->has_anti = json_len(json_at(pod, "spec", "affinity", "podAntiAffinity",
                                   "requiredDuringSchedulingIgnoredDuringExecution")) > 0;
    p->obj = pod;
    c->n_anti += p->has_anti;
    list_init(&p->link);
    map_put_str(&c->pods, uid, p);
    account(p, 1);
    return p;
}

void scache_pod(struct scache *c, const struct json *cur, bool gone) {
    struct spod *p = map_get_str(&c->pods, kube_uid(cur));
    const char *node = pod_node(cur);
    gone |= pod_is_terminal(cur);
    if (!gone && !*node) {
        if (p) {
            p->obj = cur; /* still assumed */
        }
        return;
    }
    if (p) {
        pod_drop(c, p);
    }
    if (!gone) {
        pod_add(c, cur, node_of(c, node));
    }
}

void scache_assume(struct scache *c, const struct json *pod, struct snode *n) {
    pod_add(c, pod, n)->is_assumed = true;
}

void scache_forget(struct scache *c, const char *uid) {
    struct spod *p = map_get_str(&c->pods, uid);
    if (p && p->is_assumed) {
        pod_drop(c, p);
    }
}

bool scache_node(struct scache *c, const struct json *old, const struct json *cur) {
    struct snode *n = node_of(c, kube_name(cur ? cur : old));
    n->obj = cur;
    if (!cur) {
        node_drop_if_empty(c, n);
        return false;
    }
    pod_amounts_of(json_at(cur, "status", "allocatable"), &n->alloc);
    if (!n->alloc.n) {
        pod_amounts_of(json_at(cur, "status", "capacity"), &n->alloc);
    }
    intern_all(c, &n->alloc);
    return !old || !json_eq(json_get(old, "spec"), json_get(cur, "spec")) ||
           !json_eq(kube_labels(old), kube_labels(cur)) ||
           !json_eq(json_at(old, "status", "allocatable"), json_at(cur, "status", "allocatable"));
}

void scache_fini(struct scache *c) {
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&c->pods, &it, &en)) {
        struct spod *p = en->value;
        free(p->key);
        free(p);
    }
    for (size_t i = 0; i < c->n; i++) {
        free(c->arr[i]->name);
        free(c->arr[i]);
    }
    it = (struct map_iter){0};
    while (map_next(&c->names, &it, &en)) {
        free(en->value);
    }
    map_fini(&c->pods);
    map_fini(&c->nodes);
    map_fini(&c->names);
    free(c->arr);
    *c = (struct scache){0};
}
