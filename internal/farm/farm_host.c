/* The Host object of the machine that farm runs on: what it is and under which addresses it was last seen. */
#include "internal/farm/farm_int.h"

#include "internal/base/version.h"
#include "internal/sys/sys.h"

#include <net/if.h>

static const struct kref hosts_ref = {
    .group = "kfarm.dev", .version = "v1alpha1", .resource = "hosts"};

/* Hardware addresses of the network cards; bridges, tunnels and the loopback have no device behind them. */
static void add_macs(struct json_doc *d, struct json *list) {
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *i = all; i && i->if_name; i++) {
        AUTO_FREE char *dev = str_fmt("/sys/class/net/%s/device/uevent", i->if_name);
        AUTO_FREE char *addr = str_fmt("/sys/class/net/%s/address", i->if_name);
        AUTO(buf) struct buf b = BUF_INIT(4096);
        AUTO(buf) struct buf mac = BUF_INIT(64);
        if (sys_file_read(AT_FDCWD, dev, &b, NULL) == 0 &&
            sys_file_read(AT_FDCWD, addr, &mac, NULL) == 0 && mac.n >= 17) {
            json_push(list, json_new_span(d, span_of(mac.p, 17)));
        }
    }
    if_freenameindex(all);
}

static void done(void *ctx, int rc, struct json *obj, const struct err *e) {
    (void)ctx;
    (void)obj;
    if (rc < 0 && rc != -ERR_CANCELLED) {
        LOG_WARN("farm", "own Host not recorded, continuing", F_ERR(e));
    }
}

static void applied(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct farm *f = ctx;
    if (rc < 0) {
        done(ctx, rc, obj, e);
        return;
    }
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *patch = json_new_obj(d), *st = json_set_obj(d, patch, "status");
    char now[TIME_STR];
    time_rfc3339(clock_wall_ns() / NS_PER_S, now);
    json_push_str(d, json_set_arr(d, st, "addresses"), f->o.host);
    json_set_str(d, st, "lastSeen", now);
    json_set_str(d, st, "node", f->o.node_name);
    json_set_str(d, st, "architecture", KF_ARCH);
    struct kref r = hosts_ref;
    r.name = f->o.node_name;
    r.subresource = "status";
    kpatch(f->o.admin, &r, KPATCH_MERGE, patch, NULL, done, f);
}

void farm_record_host(struct farm *f) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    struct json *o = json_new_obj(d), *spec;
    json_set_str(d, o, "apiVersion", "kfarm.dev/v1alpha1");
    json_set_str(d, o, "kind", "Host");
    json_set_str(d, json_set_obj(d, o, "metadata"), "name", f->o.node_name);
    spec = json_set_obj(d, o, "spec");
    json_set_str(d, spec, "purpose", "control-plane");
    struct json *macs = json_new_arr(d);
    add_macs(d, macs);
    if (json_len(macs)) {
        json_set(d, spec, "macs", macs);
    }
    struct kref r = hosts_ref;
    r.name = f->o.node_name;
    kpatch(f->o.admin, &r, KPATCH_APPLY, o, "kfarm", applied, f);
}
