/* The plan from an admin cluster: Networks, Tenants with their pools, Hosts, and the images on disk.
 *
 * Any change rebuilds the whole plan, a moment later and once for many changes: it is a pure function of what is there.
 * Each object becomes its JSON form (nb_plan_json.c) and is added by itself, so that one that cannot be served costs
 * only itself; the sum of what was added is kept as plan.json. */
#include "internal/netboot/nb_kube_int.h"

#include "internal/base/rand.h"
#include "internal/kclient/kclient.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
    SETTLE_MS = 20, /* an `apply` of many objects is one rebuild */
    LIM_MANIFEST = 1 << 20,
    LIM_NAME = 256,
    LIM_TOLD = 4096,
    LIM_OBJECTS = 1 << 20,
};
static const char plan_file[] = "plan.json";

struct plan_write {
    struct loop_work work;
    struct netboot_kube *k;
    struct buf text;
    int dir_fd, rc;
    struct err err;
};

/* ---- one plan in the making ---- */

void nb_kube_warn(struct netboot_kube *k, const struct json *about, const char *reason,
                  const char *text) {
    AUTO_FREE char *key =
        str_fmt("%s %s", json_str_or(json_at(about, "metadata", "uid"), ""), text);
    if (k->told.n >= LIM_TOLD) {
        map_fini(&k->told);
        k->told = (struct map)MAP_INIT;
    }
    if (!map_get_str(&k->told, key)) {
        map_put_str(&k->told, key, k);
        LOG_WARN("netboot", "cannot be served as declared, continuing", F_STR("reason", reason),
                 F_STR("why", text));
        if (about) {
            kevent(k->events, about, "Warning", reason, "%s", text);
        }
    }
}

bool nb_making_add(struct making *m, const char *list, struct json *v, struct err *e) {
    bool ok = nb_plan_add_json(m->plan, list, json_len(json_get(m->root, list)), v, e) == 0;
    if (ok) {
        json_push(json_need_arr(m->d, m->root, list), v);
    }
    return ok;
}

void nb_making_copy(struct making *m, struct json *to, const char *key, const struct json *from,
                    const char *from_key) {
    const struct json *v = json_get(from, from_key);
    if (v && !json_is_null(v)) {
        json_set(m->d, to, key, json_copy(m->d, v));
    }
}

/* ---- images: every folder of the image directory with a manifest ---- */

static void add_image(struct making *m, const char *name) {
    static const char *const parts[] = {"kernel", "initrd", "root"};
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf text = BUF_INIT(LIM_MANIFEST);
    char path[LIM_NAME + 32];
    struct err e = ERR_INIT;
    if (str_put(path, sizeof(path), "%s/manifest.json", name) < 0) {
        return;
    }
    AUTO_FD int fd = sys_open_beneath(m->k->nb->image_fd, path, O_RDONLY, 0, &e);
    if (fd < 0) {
        return; /* not an image, or not finished */
    }
    if (sys_fd_read_all(fd, &text, &e) < 0 || json_parse(buf_view(&text), 0, &d, &e) < 0) {
        LOG_WARN("netboot", "image manifest unreadable, continuing without it",
                 F_STR("image", name), F_ERR(&e));
        return;
    }
    const struct json *root = json_get(json_root(d), "root");
    struct json *o = json_new_obj(m->d);
    json_set_str(m->d, o, "name", name);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        const char *file = json_str_at(json_root(d), parts[i], "file");
        if (file) {
            json_set(m->d, o, parts[i], json_new_fmt(m->d, "%s/%s", name, file));
        }
    }
    nb_making_copy(m, o, "args", json_root(d), "args");
    nb_making_copy(m, o, "rootDigest", root, "digest");
    nb_making_copy(m, o, "rootSize", root, "size");
    if (!nb_making_add(m, "images", o, &e)) {
        nb_kube_warn(m->k, NULL, "NotServed", e.msg);
    }
}

static int by_text(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static void add_images(struct making *m) {
    int fd = m->k->nb->image_fd < 0
                 ? -1
                 : openat(m->k->nb->image_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    char **names = NULL;
    size_t n = 0;
    if (!dir) {
        sys_close(fd);
        return;
    }
    for (struct dirent *de; (de = readdir(dir)) != NULL;) {
        struct span name = span_str(de->d_name);
        if (de->d_name[0] == '.' || name.n >= LIM_NAME || span_ends(name, ".tmp") ||
            span_ends(name, ".old")) {
            continue;
        }
        char **more = mem_array(names, n + 1, sizeof(*names), LIM_NB_IMAGES);
        if (!more) {
            break;
        }
        names = more;
        names[n++] = str_dup(de->d_name);
    }
    closedir(dir);
    if (n) {
        qsort(names, n, sizeof(*names), by_text);
    }
    for (size_t i = 0; i < n; i++) {
        add_image(m, names[i]);
        free(names[i]);
    }
    free(names);
}

/* ---- networks ---- */

static void add_network(struct making *m, const struct json *net) {
    static const char *const same[] = {"cidr", "range",        "gateway", "dns",  "domain",
                                       "mtu",  "leaseSeconds", "relays",  "trust"};
    const struct json *spec = json_get(net, "spec");
    struct json *o = json_new_obj(m->d);
    json_set(m->d, o, "name",
             json_new_fmt(m->d, "%s/%s", json_str_or(json_at(net, "metadata", "namespace"), ""),
                          json_str_or(json_at(net, "metadata", "name"), "")));
    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        nb_making_copy(m, o, same[i], spec, same[i]);
    }
    JSON_EACH(
        it, server,
        json_get(spec, "ntp")) { /* names are for the boot document only: DHCP carries addresses */
        uint32_t ip;
        if (ip4_parse(json_span(server), &ip) == 0) {
            json_push(json_need_arr(m->d, o, "ntp"), json_copy(m->d, server));
        }
    }
    if (!json_bool_at(spec, true, "routerAdvertisements")) {
        json_set_str(m->d, o, "routerAdvertisements", "off");
    }
    nb_kube_put_options(m, o, json_get(spec, "options"));
    nb_kube_put_catch_all(m, o, net);
    struct err e = ERR_INIT;
    if (!nb_making_add(m, "networks", o, &e)) {
        nb_kube_warn(m->k, net, "NotServed", e.msg);
    }
}

/* ---- plan.json ---- */

static void write_plan(struct netboot_kube *k);

static void write_run(struct loop_work *w) {
    struct plan_write *pw = CONTAINER_OF(w, struct plan_write, work);
    pw->rc = sys_file_replace(pw->dir_fd, plan_file, buf_view(&pw->text), 0600, &pw->err);
}

static void write_done(struct loop_work *w) {
    struct plan_write *pw = CONTAINER_OF(w, struct plan_write, work);
    struct netboot_kube *k = pw->k;
    if (pw->rc < 0) {
        LOG_WARN("netboot", "plan.json not written, continuing", F_ERR(&pw->err));
    }
    buf_fini(&pw->text);
    free(pw);
    k->writing = NULL;
    if (k->write_again && !k->stopping) {
        k->write_again = false;
        write_plan(k);
    }
}

static void write_plan(struct netboot_kube *k) {
    struct err e = ERR_INIT;
    if (k->writing) {
        k->write_again = true;
        return;
    }
    struct plan_write *pw = new_zero(struct plan_write);
    pw->k = k;
    pw->dir_fd = k->nb->journal.dir_fd;
    pw->work.run = write_run;
    pw->work.done = write_done;
    buf_init(&pw->text, LIM_NB_PLAN_BYTES);
    buf_span(&pw->text, buf_view(&k->last));
    k->writing = pw;
    if (loop_work_submit(k->nb->l, LANE_FILE, &pw->work, &e) < 0) {
        pw->rc = -ERR_IO;
        pw->err = e;
        write_done(&pw->work);
    }
}

/* ---- rebuilding ---- */

/* The older object wins where two want the same; then by name. */
static int by_age(const void *a, const void *b) {
    static const char *const keys[] = {"creationTimestamp", "namespace", "name"};
    const struct json *const *x = a, *const *y = b;
    int d = 0;
    for (size_t i = 0; i < ARRAY_LEN(keys) && d == 0; i++) {
        d = span_cmp(json_span(json_at(*x, "metadata", keys[i])),
                     json_span(json_at(*y, "metadata", keys[i])));
    }
    return d;
}

static void each(struct kinformer *i, struct making *m,
                 void (*fn)(struct making *m, const struct json *obj)) {
    struct map_iter it = {0};
    struct json *obj;
    size_t n = 0, cap = kinformer_count(i);
    AUTO_FREE const struct json **all = mem_array(NULL, cap + 1, sizeof(*all), LIM_OBJECTS);
    while (all && n < cap && kinformer_next(i, &it, &obj)) {
        all[n++] = obj;
    }
    if (n) {
        qsort(all, n, sizeof(*all), by_age);
    }
    for (size_t k = 0; k < n; k++) {
        fn(m, all[k]);
    }
}

static void rebuild(struct loop_timer *t) {
    struct netboot_kube *k = CONTAINER_OF(t, struct netboot_kube, settle);
    if (!kinformer_synced(k->tenants) || !kinformer_synced(k->networks) ||
        !kinformer_synced(k->images) || !kinformer_synced(k->hosts)) {
        return; /* half a plan would take nodes away */
    }
    struct making m = {.k = k, .d = json_doc_new(), .plan = nb_plan_new()};
    struct err e = ERR_INIT;
    AUTO(buf) struct buf text = BUF_INIT(LIM_NB_PLAN_BYTES);
    m.root = json_new_obj(m.d);
    json_set_root(m.d, m.root);
    m.conflicts = json_new_obj(m.d);
    add_images(&m);
    each(k->networks, &m, add_network);
    each(k->tenants, &m, nb_kube_add_nodes);
    each(k->hosts, &m, nb_kube_add_approved);
    json_write(m.root, JSON_PRETTY, &text);
    nb_kube_tell_conflicts(&m);
    json_doc_free(m.d);
    nb_kube_tell_soon(k);
    if (buf_ok(&text) < 0 || span_eq(buf_view(&text), buf_view(&k->last))) {
        nb_plan_free(m.plan);
        return;
    }
    if (netboot_set_plan(k->nb, m.plan, &e) < 0) {
        LOG_WARN("netboot", "the plan cannot be used, continuing with the old one", F_ERR(&e));
        return;
    }
    buf_reset(&k->last);
    buf_span(&k->last, buf_view(&text));
    write_plan(k);
}

void nb_kube_rebuild_soon(struct netboot_kube *k) {
    if (!loop_timer_active(&k->settle)) {
        loop_timer_start(k->nb->l, &k->settle, SETTLE_MS * NS_PER_MS, rebuild, "plan");
    }
}

static void on_synced(void *ctx) {
    nb_kube_rebuild_soon(ctx);
}

static void on_change(void *ctx, struct json *old, struct json *cur) {
    if (!old || !cur || !json_eq(json_get(old, "spec"), json_get(cur, "spec")) ||
        !json_eq(json_at(old, "status", "endpoint"), json_at(cur, "status", "endpoint")) ||
        !json_eq(json_at(old, "metadata", "deletionTimestamp"),
                 json_at(cur, "metadata", "deletionTimestamp"))) {
        nb_kube_rebuild_soon(ctx); /* heartbeats and counts are not our business */
    }
}

static void on_inotify(struct loop_io *io, uint32_t events) {
    struct netboot_kube *k = CONTAINER_OF(io, struct netboot_kube, io_inotify);
    uint8_t drain[4096];
    (void)events;
    while (read(io->fd, drain, sizeof(drain)) > 0) {
    }
    nb_kube_rebuild_soon(k);
}

static struct kinformer *informer(struct netboot_kube *k, const char *resource) {
    const struct kinformer_opts o = {
        .ref = {.group = "kfarm.dev", .version = "v1alpha1", .resource = resource},
        .on_change = on_change,
        .on_synced = on_synced,
        .ctx = k};
    return kinformer_start(k->c, &o);
}

/* The plan of the last run serves until the API server answers. */
static void load_last(struct netboot_kube *k) {
    AUTO(json_docp) struct json_doc *d = NULL;
    struct nb_plan *plan = NULL;
    struct err e = ERR_INIT;
    if (sys_file_read(k->nb->journal.dir_fd, plan_file, &k->last, &e) < 0) {
        buf_reset(&k->last);
        return;
    }
    if (nb_plan_from_json(buf_view(&k->last), &plan, &e) < 0 ||
        netboot_set_plan(k->nb, plan, &e) < 0) {
        LOG_WARN("netboot", "plan of the last run unusable, continuing without it", F_ERR(&e));
        buf_reset(&k->last);
    } else if (json_parse(buf_view(&k->last), 0, &d, &e) == 0) {
        nb_kube_cas_keep(k, json_root(d));
    }
}

int netboot_kube_start(struct netboot *nb, struct kclient *admin, struct keyclient *keys,
                       struct netboot_kube **ret, struct err *e) {
    struct netboot_kube *k = new_zero(struct netboot_kube);
    k->nb = nb;
    k->c = admin;
    k->keys = keys;
    buf_init(&k->last, LIM_NB_PLAN_BYTES);
    k->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (nb->o.image_dir && k->inotify >= 0 &&
        inotify_add_watch(k->inotify, nb->o.image_dir, IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE) >=
            0) {
        int rc =
            loop_io_start(nb->l, &k->io_inotify, k->inotify, LOOP_READ, on_inotify, "images", e);
        if (rc < 0) {
            sys_close(k->inotify);
            free(k);
            return rc;
        }
    }
    load_last(k);
    nb->on_leases = nb_kube_tell_soon;
    nb->on_leases_ctx = k;
    k->events = kevents_new(admin, "netboot", NULL);
    k->networks = informer(k, "networks");
    k->tenants = informer(k, "tenants");
    k->images = informer(k, "images");
    k->hosts = informer(k, "hosts");
    k->seen = nb_hosts_new(nb, admin, k->events, k->hosts);
    *ret = k;
    return 0;
}

void netboot_kube_stop(struct netboot_kube *k) {
    if (!k) {
        return;
    }
    struct err e = ERR_INIT;
    k->stopping = true;
    nb_hosts_free(k->seen);
    kinformer_stop(k->networks);
    kinformer_stop(k->tenants);
    kinformer_stop(k->images);
    kinformer_stop(k->hosts);
    kevents_free(k->events);
    loop_timer_stop(&k->settle);
    loop_timer_stop(&k->tell_timer);
    k->nb->on_leases = NULL;
    loop_io_stop(&k->io_inotify);
    sys_close(k->inotify);
    while (k->writing && loop_step(k->nb->l, UINT64_MAX, &e) == 0) {
    }
    nb_kube_cas_free(k);
    map_fini(&k->told);
    buf_fini(&k->last);
    free(k);
}
