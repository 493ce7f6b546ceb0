/* The two clients of the supervisor: hostlet runs tenants' processes, farm has removed clusters forgotten. */
#include "internal/supervisor/supervisor_int.h"

#include <stdlib.h>

static void reply(struct ipc *c, uint64_t id, const struct json *body, int own_fd) {
    struct err e = ERR_INIT;
    AUTO(buf) struct buf b = BUF_INIT(LIM_IPC_MSG);
    json_write(body, 0, &b);
    if (ipc_reply(c, id, buf_view(&b), own_fd, &e) < 0) {
        LOG_WARN("supervisor", "answer not sent", F_ERR(&e));
    }
}

static void event(struct client *c, enum super_msg type, const struct json *body) {
    struct err e = ERR_INIT;
    AUTO(buf) struct buf b = BUF_INIT(LIM_IPC_MSG);
    json_write(body, 0, &b);
    if (c->ipc && ipc_send(c->ipc, (uint16_t)type, buf_view(&b), -1, &e) < 0) {
        LOG_WARN("supervisor", "event not sent", F_ERR(&e));
    }
}

void client_exited(struct proc *p, int code, int sig) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "id", p->id);
    json_set_i64(d, o, "exitCode", sig ? 128 + sig : code);
    json_set_i64(d, o, "signal", sig);
    event(&p->s->hostlet, SUPER_EXITED, o);
    if (p->waiter && p->waiter == p->s->hostlet.ipc) {
        reply(p->waiter, p->waiter_id, o, -1);
    }
}

void client_ready(struct proc *p) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "id", p->id);
    event(&p->s->hostlet, SUPER_READY, o);
}

static int log_dup(struct proc *p, struct err *e) {
    int fd = fcntl(p->log_fd, F_DUPFD_CLOEXEC, 3);
    return fd < 0 ? err_set(e, ERR_IO, "process %s has no log pipe", p->id) : fd;
}

static int do_run(struct client *c, const struct json *q, struct json_doc *d, struct json *out,
                  int *ret_fd, struct err *e) {
    struct sup *s = c->s;
    const char *id = json_str_at(q, "id"), *scope = json_str_at(q, "scope"),
               *role = json_str_at(q, "role");
    const struct role_spec *r = role ? super_role(role) : NULL;
    int64_t port = json_i64_at(q, 0, "port");
    struct cluster *cl;
    if (!c->may_run || !id || !scope || str_eq(scope, "admin") || !r || !r->client_may_run) {
        return err_set(e, ERR_FORBIDDEN, "process \"%s\" of role \"%s\" may not be run",
                       id ? id : "", role ? role : "");
    }
    if (proc_find(s, id)) {
        return err_set(e, ERR_EXISTS, "process %s runs already", id);
    }
    if (s->stopping || s->n_procs >= LIM_PROCS || port < 0 || port > 65535 ||
        json_len(json_get(q, "args")) > 32) {
        return err_set(e, ERR_LIMIT, "process %s cannot be run now", id);
    }
    int rc = cluster_open(s, scope, &cl, e);
    if (rc < 0 ||
        (str_eq(role, "apiserver") &&
         (rc = cluster_listen(s, cl, (uint16_t)port, json_get(q, "serverNames"), e)) < 0)) {
        return rc;
    }
    struct proc *p = proc_new(s, id, r, cl);
    p->by_client = true;
    JSON_EACH(it, x, json_get(q, "args")) {
        proc_arg(p, "%s", json_str_or(x, ""));
    }
    if (json_get(q, "etcdTLS")) {
        struct buf b = BUF_INIT(LIM_IPC_MSG);
        json_write(json_get(q, "etcdTLS"), 0, &b);
        p->etcd_tls = buf_take(&b, NULL);
    }
    if ((rc = proc_start(p, e)) < 0) {
        proc_free(p);
        return rc;
    }
    if ((rc = *ret_fd = log_dup(p, e)) < 0) {
        proc_stop(p, 0); /* freed at its end */
        return rc;
    }
    json_set_i64(d, out, "pid", p->pid);
    return 0;
}

static void do_list(struct client *c, struct json_doc *d, struct json *out) {
    struct json *items = json_set_arr(d, out, "items");
    for (LIST_EACH(at, nxt, &c->s->procs)) {
        struct proc *p = CONTAINER_OF(at, struct proc, link);
        if (p->by_client) {
            struct json *o = json_new_obj(d);
            json_set_str(d, o, "id", p->id);
            json_set_str(d, o, "scope", p->cluster->scope);
            json_set_str(d, o, "role", p->role->name);
            json_set_i64(d, o, "pid", p->pid);
            json_push(items, o);
        }
    }
}

static int do_stop(struct client *c, struct ipc_msg *m, const struct json *q, bool *ret_later,
                   struct err *e) {
    struct proc *p = json_str_at(q, "id") ? proc_find(c->s, json_str_at(q, "id")) : NULL;
    if (!c->may_run || (p && !p->by_client)) {
        return err_set(e, ERR_FORBIDDEN, "not a process of this client");
    }
    if (!p) {
        return 0; /* it has ended already */
    }
    p->waiter = c->ipc;
    p->waiter_id = m->id;
    *ret_later = true;
    proc_stop(p, (uint64_t)json_i64_at(q, 5000, "graceMs") * NS_PER_MS);
    return 0;
}

static int dispatch(struct client *c, struct ipc_msg *m, struct json_doc *d, struct json *out,
                    int *ret_fd, bool *later, struct err *e) {
    AUTO(json_docp) struct json_doc *in = NULL;
    int rc = json_parse(m->body, 0, &in, e);
    const struct json *q = json_root(in);
    if (rc < 0) {
        return rc;
    }
    switch (m->type) {
    case SUPER_RUN: return do_run(c, q, d, out, ret_fd, e);
    case SUPER_STOP: return do_stop(c, m, q, later, e);
    case SUPER_LIST: do_list(c, d, out); return 0;
    case SUPER_ADOPT: {
        struct proc *p = json_str_at(q, "id") ? proc_find(c->s, json_str_at(q, "id")) : NULL;
        if (!p || !p->by_client) {
            return err_set(e, ERR_NOT_FOUND, "no such process");
        }
        json_set_i64(d, out, "pid", p->pid);
        return (*ret_fd = log_dup(p, e)) < 0 ? *ret_fd : 0;
    }
    case SUPER_FORGET:
        return c->may_forget ? cluster_forget(c->s, json_str_at(q, "scope"), e)
                             : err_set(e, ERR_FORBIDDEN, "this client may not remove clusters");
    default: return err_set(e, ERR_UNSUPPORTED, "unknown request %u", (unsigned)m->type);
    }
}

static void on_msg(struct ipc *ipc, struct ipc_msg *m, void *ctx) {
    struct client *c = ctx;
    struct err e = ERR_INIT, se = ERR_INIT;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *out = json_new_obj(d);
    int fd = -1;
    bool later = false;
    if (dispatch(c, m, d, out, &fd, &later, &e) < 0) {
        LOG_WARN("supervisor", "request refused", F_U64("type", m->type), F_ERR(&e));
        if (ipc_reply_err(ipc, m->id, &e, &se) < 0) {
            LOG_WARN("supervisor", "answer not sent", F_ERR(&se));
        }
    } else if (!later) {
        reply(ipc, m->id, out, fd);
    }
}

static void on_close(struct ipc *ipc, void *ctx) {
    struct client *c = ctx;
    for (LIST_EACH(at, nxt, &c->s->procs)) {
        struct proc *p = CONTAINER_OF(at, struct proc, link);
        p->waiter = p->waiter == ipc ? NULL : p->waiter;
    }
    ipc_free(ipc);
    c->ipc = c->ipc == ipc ? NULL : c->ipc;
}

int client_open(struct client *c, struct sup *s, int *ret_far, struct err *e) {
    int pair[2];
    const struct ipc_handler h = {on_msg, on_close, c};
    int rc = ipc_pair(pair, e);
    if (rc < 0) {
        return rc;
    }
    if (c->ipc) { /* the old process is dead: its end of the old channel is closed */
        on_close(c->ipc, c);
    }
    c->s = s;
    if ((rc = ipc_new(s->l, pair[0], &h, &c->ipc, e)) < 0) {
        sys_close(pair[1]);
        return rc;
    }
    *ret_far = pair[1];
    return 0;
}
