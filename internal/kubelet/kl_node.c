/* The Node object: registered, its labels and taints kept in line with the tags, status and Lease refreshed. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/base/version.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/sys/sys.h"

#include <stdlib.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#define TAGS_ANNOTATION "kfarm.dev/applied-tags"
enum { LEASE_S = 40, RENEW_S = 10, STATUS_S = 300, UNREADY_S = 1 };
enum { RETRY_MIN_MS = 40, RETRY_MAX_MS = 2000, LIM_DOUBLINGS = 6 };

static struct kref node_ref(const struct kubelet *k, const char *sub) {
    return (struct kref){.group = "",
                         .version = "v1",
                         .resource = "nodes",
                         .name = k->o.node_name,
                         .subresource = sub};
}

static struct json *node_object(const struct kubelet *k) {
    return k->node_informer ? kinformer_get(k->node_informer, NULL, k->o.node_name) : NULL;
}

void kubelet_set_tags(struct kubelet *k, const struct json *labels, const struct json *taints) {
    struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d);
    json_set_root(d, o);
    json_set(d, o, "labels", labels ? json_copy(d, labels) : json_new_obj(d));
    json_set(d, o, "taints", taints ? json_copy(d, taints) : json_new_arr(d));
    json_doc_free(k->tags);
    k->tags = d;
    k->tags_written = false;
    if (k->is_registered) {
        kl_node_refresh(k);
    }
}

/* ---- what the machine has ---- */

static int64_t memory_bytes(void) {
    AUTO(buf) struct buf b = BUF_INIT(65536);
    struct err e = ERR_INIT;
    uint64_t kib = 0;
    if (sys_file_read(AT_FDCWD, "/proc/meminfo", &b, &e) < 0) {
        return 0;
    }
    struct span s = buf_view(&b);
    for (struct span line, key; span_line(&s, &line) == 0;) {
        if (span_until(&line, ':', &key) == 0 && span_eq_str(key, "MemTotal")) {
            line = span_trim(line);
            struct span digits;
            span_next(&line, ' ', &digits);
            return span_to_u64(digits, 0, UINT64_MAX >> 11, &kib) < 0 ? 0 : (int64_t)(kib * 1024);
        }
    }
    return 0;
}

static void fill_capacity(struct kubelet *k) {
    struct statfs fs;
    if (!k->o.cpu_milli) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        k->o.cpu_milli = 1000 * (n > 0 ? n : 1);
    }
    if (!k->o.memory_bytes) {
        k->o.memory_bytes = memory_bytes();
    }
    if (!k->o.storage_bytes && statfs(k->o.root_dir, &fs) == 0) {
        k->o.storage_bytes = (int64_t)fs.f_blocks * (int64_t)fs.f_bsize;
    }
}

static void one_line(const char *path, char *dst, size_t cap) {
    AUTO(buf) struct buf b = BUF_INIT(4096);
    struct err e = ERR_INIT;
    struct span s, line;
    dst[0] = 0;
    if (sys_file_read(AT_FDCWD, path, &b, &e) < 0) {
        return;
    }
    s = buf_view(&b);
    if (span_line(&s, &line) == 0 && span_to_cstr(line, dst, cap) < 0) {
        dst[0] = 0;
    }
}

static void os_image(char *dst, size_t cap) {
    AUTO(buf) struct buf b = BUF_INIT(65536);
    struct err e = ERR_INIT;
    IGNORE_ERR(str_put(dst, cap, "Linux"), "fits");
    if (sys_file_read(AT_FDCWD, "/etc/os-release", &b, &e) < 0) {
        return;
    }
    struct span s = buf_view(&b);
    for (struct span line, key; span_line(&s, &line) == 0;) {
        if (span_until(&line, '=', &key) == 0 && span_eq_str(key, "PRETTY_NAME") && line.n > 2) {
            IGNORE_ERR(span_to_cstr(span_of(line.p + 1, line.n - 2), dst, cap),
                       "the default stays");
        }
    }
}

static const char *architecture(const char *machine) {
    return str_eq(machine, "x86_64") ? "amd64" : str_eq(machine, "aarch64") ? "arm64" : machine;
}

static void node_info(struct kubelet *k, struct json_doc *d, struct json *st) {
    struct json *i = json_set_obj(d, st, "nodeInfo");
    struct utsname u = {0};
    char machine[64], uuid[64], boot[64], os[128];
    IGNORE_ERR(uname(&u), "never fails with a good pointer");
    one_line("/etc/machine-id", machine, sizeof(machine));
    one_line("/sys/class/dmi/id/product_uuid", uuid, sizeof(uuid));
    one_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    os_image(os, sizeof(os));
    json_set_str(d, i, "machineID", machine[0] ? machine : uuid);
    json_set_str(d, i, "systemUUID", uuid);
    json_set_str(d, i, "bootID", boot);
    json_set_str(d, i, "kernelVersion", u.release);
    json_set_str(d, i, "osImage", os);
    json_set_str(d, i, "containerRuntimeVersion", k->rt_version);
    json_set_str(d, i, "kubeletVersion", KF_KUBE_GIT_VERSION);
    json_set_str(d, i, "kubeProxyVersion", KF_KUBE_GIT_VERSION);
    json_set_str(d, i, "operatingSystem", "linux");
    json_set_str(d, i, "architecture", architecture(u.machine));
}

static void amounts(struct kubelet *k, struct json_doc *d, struct json *st, const char *key,
                    int64_t reserved) {
    struct json *o = json_set_obj(d, st, key);
    AUTO(buf) struct buf b = BUF_INIT(64);
    int64_t mem = k->o.memory_bytes - reserved;
    kube_quantity_write_milli(&b, k->o.cpu_milli);
    json_set_str(d, o, "cpu", buf_cstr(&b));
    json_set(d, o, "memory", json_new_fmt(d, "%lldKi", (long long)((mem > 0 ? mem : 0) / 1024)));
    json_set(d, o, "ephemeral-storage",
             json_new_fmt(d, "%lldKi", (long long)(k->o.storage_bytes / 1024)));
    json_set(d, o, "pods", json_new_fmt(d, "%u", k->o.max_pods));
    json_set_str(d, o, "hugepages-2Mi", "0");
}

/* ---- conditions ---- */

static void condition(struct kubelet *k, struct json_doc *d, struct json *list, const char *type,
                      bool yes, const char *reason, const char *message, const char *now) {
    const char *status = yes ? "True" : "False", *since = now;
    const struct json *sources[] = {k->sent_status ? json_root(k->sent_status) : NULL,
                                    json_get(node_object(k), "status")};
    for (size_t i = 0; i < 2; i++) {
        JSON_EACH(it, c, json_get(sources[i], "conditions")) {
            if (since == now && str_eq(json_str_at(c, "type"), type) &&
                str_eq(json_str_at(c, "status"), status)) {
                since = json_str_or(json_get(c, "lastTransitionTime"), now);
            }
        }
    }
    struct json *c = json_new_obj(d);
    json_set_str(d, c, "type", type);
    json_set_str(d, c, "status", status);
    json_set_str(d, c, "lastHeartbeatTime", now);
    json_set_str(d, c, "lastTransitionTime", since);
    json_set_str(d, c, "reason", reason);
    json_set_str(d, c, "message", message);
    json_push(list, c);
}

static struct json *status(struct kubelet *k, struct json_doc *d) {
    struct json *st = json_new_obj(d), *list;
    char now[TIME_STR];
    bool ready = k->rt_ready && k->net_ready && !k->going_down;
    kl_time(clock_wall_ns(), now);
    amounts(k, d, st, "capacity", 0);
    amounts(k, d, st, "allocatable", k->o.reserved_memory_bytes);
    node_info(k, d, st);
    list = json_set_arr(d, st, "addresses");
    for (size_t i = 0; i < k->o.n_ips; i++) {
        struct json *a = json_new_obj(d);
        json_set_str(d, a, "type", "InternalIP");
        json_set_str(d, a, "address", k->o.ips[i]);
        json_push(list, a);
    }
    struct json *host = json_new_obj(d);
    json_set_str(d, host, "type", "Hostname");
    json_set_str(d, host, "address", k->o.node_name);
    json_push(list, host);
    if (k->o.port) {
        json_set_i64(d, json_set_obj(d, json_set_obj(d, st, "daemonEndpoints"), "kubeletEndpoint"),
                     "Port", k->o.port);
    }
    list = json_set_arr(d, st, "conditions");
    condition(k, d, list, "MemoryPressure", false, "KubeletHasSufficientMemory",
              "kubelet has sufficient memory available", now);
    condition(k, d, list, "DiskPressure", false, "KubeletHasNoDiskPressure",
              "kubelet has no disk pressure", now);
    condition(k, d, list, "PIDPressure", false, "KubeletHasSufficientPID",
              "kubelet has sufficient PID available", now);
    condition(k, d, list, "Ready", ready,
              ready           ? "KubeletReady"
              : k->going_down ? k->down_reason
                              : "KubeletNotReady",
              ready              ? "kubelet is posting ready status"
              : k->going_down    ? "the node is going down"
              : k->rt_message[0] ? k->rt_message
                                 : "the container runtime is not ready",
              now);
    return st;
}

/* ---- labels and taints ---- */

static bool was_applied(const struct json *applied, const char *key) {
    JSON_EACH(it, x, applied) {
        if (str_eq(json_str(x), key)) {
            return true;
        }
    }
    return false;
}

static void base_labels(struct kubelet *k, struct json_doc *d, struct json *labels) {
    struct utsname u = {0};
    IGNORE_ERR(uname(&u), "never fails with a good pointer");
    JSON_EACH_KV(it, key, v, json_get(json_root(k->tags), "labels")) {
        json_set(d, labels, key, json_copy(d, v));
    }
    json_set_str(d, labels, "kubernetes.io/hostname", k->o.node_name);
    json_set_str(d, labels, "kubernetes.io/os", "linux");
    json_set_str(d, labels, "kubernetes.io/arch", architecture(u.machine));
}

/* "key:effect" of every taint and "key" of every label that the tags give. */
static struct json *applied_list(struct kubelet *k, struct json_doc *d) {
    struct json *o = json_new_obj(d), *labels = json_set_arr(d, o, "labels"),
                *taints = json_set_arr(d, o, "taints");
    JSON_EACH_KV(it, key, v, json_get(json_root(k->tags), "labels")) {
        (void)v;
        json_push_str(d, labels, key);
    }
    JSON_EACH(it2, t, json_get(json_root(k->tags), "taints")) {
        json_push(taints, json_new_fmt(d, "%s:%s", json_str_or(json_get(t, "key"), ""),
                                       json_str_or(json_get(t, "effect"), "")));
    }
    return o;
}

static void add_tag_taints(struct kubelet *k, struct json_doc *d, struct json *taints) {
    JSON_EACH(it, t, json_get(json_root(k->tags), "taints")) {
        json_push(taints, json_copy(d, t));
    }
}

/* Merge patch that brings the Node's labels in line with the tags, once after a start or a change of the tags: later
 * changes are others' (kfarm's farm role follows the Tenant). Taints are given when the Node is created and not changed
 * here: NodeRestriction forbids it to nodes. NULL: nothing to do. */
static struct json *tags_patch(struct kubelet *k, struct json_doc *d, const struct json *node) {
    if (k->tags_written) {
        return NULL;
    }
    struct json *patch = json_new_obj(d), *meta = json_set_obj(d, patch, "metadata"),
                *labels = json_set_obj(d, meta, "labels"), *want = json_new_obj(d);
    AUTO(json_docp) struct json_doc *old = NULL;
    AUTO(buf) struct buf text = BUF_INIT(1 << 20);
    struct err e = ERR_INIT;
    const char *note = kube_annotation(node, TAGS_ANNOTATION);
    if (note && json_parse(span_str(note), 0, &old, &e) < 0) {
        old = NULL;
    }
    const struct json *was = old ? json_root(old) : NULL;
    base_labels(k, d, want);
    JSON_EACH_KV(it, key, v, want) {
        if (!str_eq(json_str(v), kube_label(node, key))) {
            json_set(d, labels, key, json_copy(d, v));
        }
    }
    JSON_EACH_KV(it2, key2, v2, kube_labels(node)) {
        (void)v2;
        if (!json_get(want, key2) && was_applied(json_get(was, "labels"), key2)) {
            json_set(d, labels, key2, json_new_null(d));
        }
    }
    json_write(applied_list(k, d), 0, &text);
    if (json_len(labels) == 0 && note && str_eq(note, buf_cstr(&text))) {
        return NULL;
    }
    json_set_str(d, json_set_obj(d, meta, "annotations"), TAGS_ANNOTATION, buf_cstr(&text));
    return patch;
}

/* ---- the cycle: tags, then status ---- */

/* A server that is just starting, as this host's own does beside us, is asked again soon: until the node is registered no pod
 * runs here. */
static uint64_t retry_ns(unsigned *fails) {
    uint64_t ms = (uint64_t)RETRY_MIN_MS << *fails;
    *fails += *fails < LIM_DOUBLINGS;
    return (ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS) * NS_PER_MS;
}

/* A server that stays away is told about once, not every two seconds. */
static void complain(struct kubelet *k, const char *what, const struct err *e) {
    if (!k->api_is_lost) {
        LOG_WARN("kubelet", what, F_ERR(e));
    }
    k->api_is_lost = true;
}

static void refresh(struct kubelet *k);

static void on_status_timer(struct loop_timer *t) {
    refresh(CONTAINER_OF(t, struct kubelet, status_timer));
}

static void again_in(struct kubelet *k, uint64_t ns) {
    loop_timer_start(k->l, &k->status_timer, ns, on_status_timer, "node status");
}

static void cycle_end(struct kubelet *k, bool ok) {
    k->node_busy = false;
    if (k->going_down && k->down_done) {
        void (*done)(void *ctx) = k->down_done;
        k->down_done = NULL;
        done(k->down_ctx);
        return;
    }
    if (k->node_again) {
        k->node_again = false;
        refresh(k);
        return;
    }
    bool ready = k->rt_ready && k->net_ready;
    k->node_fails = ok ? 0 : k->node_fails;
    again_in(k, !ok ? retry_ns(&k->node_fails) : (ready ? STATUS_S : UNREADY_S) * NS_PER_S);
}

static void on_status_sent(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kubelet *k = ctx;
    if (k->is_stopped) {
        return;
    }
    (void)obj;
    if (rc < 0) {
        complain(k, "node status not written, trying again", e);
        k->is_registered = k->is_registered && rc != -ERR_NOT_FOUND;
    } else {
        bool ready = k->rt_ready && k->net_ready;
        k->api_is_lost = false;
        if (ready && !k->is_ready) {
            LOG_INFO("kubelet", "node is ready", F_STR("node", k->o.node_name));
        }
        k->is_ready = ready;
    }
    cycle_end(k, rc == 0);
}

/* Heartbeats live in the Lease: the status is written when it says something new, or every STATUS_S. */
static bool is_same_status(struct kubelet *k, const struct json *st) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    if (!k->sent_status || !k->is_ready) {
        return false;
    }
    struct json *a = json_copy(d, json_root(k->sent_status)), *b = json_copy(d, st);
    struct json *both[] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        JSON_EACH(it, c, json_get(both[i], "conditions")) {
            json_del(c, "lastHeartbeatTime");
        }
    }
    return json_eq(a, b) && loop_timer_active(&k->status_timer);
}

static void send_status(struct kubelet *k) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *st = status(k, d);
    if (is_same_status(k, st)) {
        cycle_end(k, true);
        return;
    }
    json_doc_free(k->sent_status);
    k->sent_status = json_doc_new();
    json_set_root(k->sent_status, json_copy(k->sent_status, st));
    /* conditions of others (network plugins) stay */
    JSON_EACH(it, c, json_at(node_object(k), "status", "conditions")) {
        bool ours = false;
        JSON_EACH(it2, mine, json_get(json_root(k->sent_status), "conditions")) {
            ours = ours || str_eq(json_str_at(c, "type"), json_str_at(mine, "type"));
        }
        if (!ours) {
            json_push(json_get(st, "conditions"), json_copy(d, c));
        }
    }
    json_set(d, patch, "status", st);
    const struct kref r = node_ref(k, "status");
    kpatch(k->c, &r, KPATCH_MERGE, patch, "kubelet", on_status_sent, k);
}

static void text(char *dst, size_t cap, const char *s) {
    size_t n = s ? strlen(s) : 0;
    n = n < cap ? n : cap - 1;
    if (n) {
        memcpy(dst, s, n);
    }
    dst[n] = 0;
}

static void on_info(void *ctx, int rc, const struct kubelet_runtime_info *i, const struct err *e) {
    struct kubelet *k = ctx;
    if (k->is_stopped) {
        return;
    }
    if (rc < 0) {
        k->rt_ready = k->net_ready = false;
        text(k->rt_message, sizeof(k->rt_message), e->msg);
    } else {
        k->rt_ready = i->ready;
        k->net_ready = i->network_ready;
        text(k->rt_version, sizeof(k->rt_version), i->version);
        text(k->rt_reason, sizeof(k->rt_reason), i->reason);
        text(k->rt_message, sizeof(k->rt_message), i->message);
    }
    send_status(k);
}

static void on_tags(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kubelet *k = ctx;
    if (k->is_stopped) {
        return;
    }
    if (rc < 0) {
        complain(k, "labels not written, trying again", e);
        cycle_end(k, false);
        return;
    }
    k->tags_written = true;
    if (obj && k->node_informer) {
        kinformer_put(k->node_informer, obj);
    }
    k->o.ops->info(k->o.rt, on_info, k);
}

static void on_created(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kubelet *k = ctx;
    if (k->is_stopped) {
        return;
    }
    (void)obj;
    if (rc < 0) {
        complain(k, "node not registered, trying again", e);
        cycle_end(k, false);
        return;
    }
    LOG_INFO("kubelet", "node registered", F_STR("node", k->o.node_name));
    k->is_registered = k->tags_written = true;
    k->o.ops->info(k->o.rt, on_info, k);
}

static void create(struct kubelet *k) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    AUTO(buf) struct buf note = BUF_INIT(1 << 20);
    struct json *o = json_new_obj(d), *meta, *spec, *taints;
    json_set_str(d, o, "apiVersion", "v1");
    json_set_str(d, o, "kind", "Node");
    meta = json_set_obj(d, o, "metadata");
    json_set_str(d, meta, "name", k->o.node_name);
    base_labels(k, d, json_set_obj(d, meta, "labels"));
    json_write(applied_list(k, d), 0, &note);
    json_set_str(d, json_set_obj(d, meta, "annotations"), TAGS_ANNOTATION, buf_cstr(&note));
    spec = json_set_obj(d, o, "spec");
    if (k->o.pod_cidr && *k->o.pod_cidr) {
        json_set_str(d, spec, "podCIDR", k->o.pod_cidr);
        json_push_str(d, json_set_arr(d, spec, "podCIDRs"), k->o.pod_cidr);
    }
    if (k->o.provider_id && *k->o.provider_id) {
        json_set_str(d, spec, "providerID", k->o.provider_id);
    }
    taints = json_new_arr(d);
    add_tag_taints(k, d, taints);
    if (json_len(taints) > 0) {
        json_set(d, spec, "taints", taints);
    }
    const struct kref r = {.group = "", .version = "v1", .resource = "nodes"};
    kcreate(k->c, &r, o, on_created, k);
}

static void on_got(void *ctx, int rc, struct json *node, const struct err *e) {
    struct kubelet *k = ctx;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    if (k->is_stopped) {
        return;
    }
    if (rc == -ERR_NOT_FOUND) {
        create(k);
        return;
    }
    if (rc < 0) {
        complain(k, "the API server does not give the node, trying again", e);
        cycle_end(k, false);
        return;
    }
    k->is_registered = true;
    struct json *patch = tags_patch(k, d, node);
    if (patch) {
        const struct kref r = node_ref(k, NULL);
        kpatch(k->c, &r, KPATCH_MERGE, patch, "kubelet", on_tags, k);
    } else {
        k->tags_written = true;
        k->o.ops->info(k->o.rt, on_info, k);
    }
}

static void refresh(struct kubelet *k) {
    if (k->node_busy) {
        k->node_again = true;
        return;
    }
    k->node_busy = true;
    const struct kref r = node_ref(k, NULL);
    kget(k->c, &r, on_got, k);
}

void kl_node_refresh(struct kubelet *k) {
    if (k->node_busy) {
        k->node_again = true;
        return;
    }
    loop_timer_stop(&k->status_timer);
    again_in(k, 0);
}

/* ---- the Lease ---- */

static void renew(struct kubelet *k);
static void on_lease_timer(struct loop_timer *t) {
    renew(CONTAINER_OF(t, struct kubelet, lease_timer));
}

static void on_lease(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct kubelet *k = ctx;
    if (k->is_stopped) {
        return;
    }
    (void)obj;
    uint64_t wait = RENEW_S * NS_PER_S;
    if (rc == -ERR_NOT_FOUND && k->lease_exists) {
        k->lease_exists = false;
        wait = 0;
    } else if (rc == 0 || rc == -ERR_EXISTS) {
        wait = k->lease_exists || rc == 0 ? wait : 0;
        k->lease_exists = true;
        k->lease_fails = 0;
    } else {
        complain(k, "lease not renewed, trying again", e);
        wait = retry_ns(&k->lease_fails);
    }
    loop_timer_start(k->l, &k->lease_timer, wait, on_lease_timer, "node lease");
}

static void renew(struct kubelet *k) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d), *meta, *spec;
    char now[TIME_STR];
    struct kref r = {.group = "coordination.k8s.io",
                     .version = "v1",
                     .resource = "leases",
                     .ns = "kube-node-lease"};
    time_rfc3339_micro(clock_wall_ns(), now);
    spec = json_set_obj(d, o, "spec");
    json_set_str(d, spec, "renewTime", now);
    json_set_str(d, spec, "holderIdentity", k->o.node_name);
    json_set_i64(d, spec, "leaseDurationSeconds", LEASE_S);
    if (k->lease_exists) {
        r.name = k->o.node_name;
        kpatch(k->c, &r, KPATCH_MERGE, o, "kubelet", on_lease, k);
        return;
    }
    json_set_str(d, o, "apiVersion", "coordination.k8s.io/v1");
    json_set_str(d, o, "kind", "Lease");
    meta = json_set_obj(d, o, "metadata");
    json_set_str(d, meta, "name", k->o.node_name);
    json_set_str(d, meta, "namespace", "kube-node-lease");
    const char *uid = kube_uid(node_object(k));
    if (uid && *uid) {
        struct json *refs = json_set_arr(d, meta, "ownerReferences"), *own = json_new_obj(d);
        json_set_str(d, own, "apiVersion", "v1");
        json_set_str(d, own, "kind", "Node");
        json_set_str(d, own, "name", k->o.node_name);
        json_set_str(d, own, "uid", uid);
        json_push(refs, own);
    }
    kcreate(k->c, &r, o, on_lease, k);
}

/* ---- the pod network of this node: CNI's bridge with addresses from podCIDR ---- */

static void write_cni(struct kubelet *k, const char *cidr) {
    AUTO(buf) struct buf b = BUF_INIT(8192), now = BUF_INIT(8192);
    char path[512];
    struct err e = ERR_INIT;
    buf_str(&b, "{\"cniVersion\":\"1.0.0\",\"name\":\"kfarm\",\"plugins\":[{\"type\":\"bridge\","
                "\"bridge\":\"cni0\","
                "\"isDefaultGateway\":true,\"ipMasq\":false,\"hairpinMode\":true,\"ipam\":{"
                "\"type\":\"host-local\","
                "\"ranges\":[[{\"subnet\":");
    json_write_str(&b, span_str(cidr));
    buf_str(&b, "}]],\"dataDir\":\"/run/cni/"
                "networks\"}},{\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true}}]}\n");
    if (str_put(path, sizeof(path), "%s/10-kfarm.conflist", k->o.cni_dir) < 0) {
        return;
    }
    if (sys_file_read(AT_FDCWD, path, &now, &e) == 0 && span_eq(buf_view(&now), buf_view(&b))) {
        return;
    }
    err_reset(&e);
    if (sys_mkdirs(k->o.cni_dir, 0755, &e) < 0 ||
        sys_file_replace(AT_FDCWD, path, buf_view(&b), 0644, &e) < 0) {
        LOG_ERROR("kubelet", "pod network not configured", F_ERR(&e));
        return;
    }
    LOG_INFO("kubelet", "pod network configured", F_STR("cidr", cidr));
    kl_node_refresh(k);
}

static void on_node(void *ctx, struct json *old, struct json *cur) {
    struct kubelet *k = ctx;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    const char *cidr = json_str_at(cur, "spec", "podCIDR");
    if (cidr && *cidr && k->o.cni_dir) {
        write_cni(k, cidr);
    }
    if (!cur || (old && tags_patch(k, d, cur))) {
        kl_node_refresh(k); /* deleted, or somebody changed what the tags say */
    }
}

int kl_node_start(struct kubelet *k, struct err *e) {
    char selector[300];
    if (str_put(selector, sizeof(selector), "metadata.name=%s", k->o.node_name) < 0) {
        return err_set(e, ERR_INVALID, "node name too long");
    }
    fill_capacity(k);
    const struct kinformer_opts o = {.ref = {.group = "", .version = "v1", .resource = "nodes"},
                                     .field_selector = selector,
                                     .on_change = on_node,
                                     .ctx = k};
    k->node_informer = kinformer_start(k->c, &o);
    again_in(k, 0);
    loop_timer_start(k->l, &k->lease_timer, 0, on_lease_timer, "node lease");
    return 0;
}

void kl_node_stop(struct kubelet *k) {
    kinformer_stop(k->node_informer);
    k->node_informer = NULL;
    loop_timer_stop(&k->lease_timer);
    loop_timer_stop(&k->status_timer);
}

void kubelet_going_down(struct kubelet *k, const char *reason, void (*done)(void *ctx), void *ctx) {
    k->going_down = true;
    text(k->down_reason, sizeof(k->down_reason), reason);
    k->down_done = done;
    k->down_ctx = ctx;
    k->is_ready = false;
    kl_node_refresh(k);
}
