/* The admin kubeconfig: written when missing, when its certificate is past half of its life, or when the server moved. */
#include "internal/supervisor/supervisor_int.h"

#include "internal/pki/pki.h"

#include <stdlib.h>

enum { LIM_KUBECONFIG = 256 * 1024 };

static void b64_line(struct buf *b, const char *key, struct span pem) {
    buf_fmt(b, "    %s: ", key);
    b64_encode(b, pem);
    buf_str(b, "\n");
}

static void render(const struct supervisor_opts *o, const struct key_identity *id, struct buf *b) {
    bool v6 = strchr(o->advertise_host, ':') != NULL;
    buf_str(b, "apiVersion: v1\nkind: Config\nclusters:\n- name: kfarm\n  cluster:\n");
    buf_fmt(b, "    server: https://%s%s%s:%u\n", v6 ? "[" : "", o->advertise_host, v6 ? "]" : "",
            (unsigned)o->port);
    b64_line(b, "certificate-authority-data", buf_view(&id->ca_pem));
    buf_str(b, "users:\n- name: kfarm-admin\n  user:\n");
    b64_line(b, "client-certificate-data", buf_view(&id->cert_pem));
    b64_line(b, "client-key-data", buf_view(&id->key_pem));
    buf_str(b, "contexts:\n- name: kfarm\n  context:\n    cluster: kfarm\n    user: kfarm-admin\n"
               "current-context: kfarm\npreferences: {}\n");
}

/* The value of `key: ` in our own rendering, base64-decoded. */
static int field(struct span text, const char *key, struct buf *ret) {
    struct span line;
    while (span_line(&text, &line) == 0) {
        line = span_trim(line);
        if (span_starts(line, key)) {
            IGNORE_ERR(span_skip(&line, strlen(key)), "prefix checked");
            return b64_decode(ret, span_trim(line));
        }
    }
    return -ERR_NOT_FOUND;
}

static bool still_good(const struct supervisor_opts *o, struct span ca_pem) {
    AUTO(buf) struct buf text = BUF_INIT(LIM_KUBECONFIG);
    AUTO(buf) struct buf cert = BUF_INIT(LIM_KUBECONFIG);
    AUTO(buf) struct buf server = BUF_INIT(512);
    uint64_t now = clock_wall_ns() / NS_PER_S;
    struct pki_info info;
    bool v6 = strchr(o->advertise_host, ':') != NULL;
    buf_fmt(&server, "server: https://%s%s%s:%u\n", v6 ? "[" : "", o->advertise_host, v6 ? "]" : "",
            (unsigned)o->port);
    if (sys_file_read(AT_FDCWD, o->kubeconfig, &text, NULL) < 0 ||
        !strstr(buf_cstr(&text), buf_cstr(&server)) ||
        field(buf_view(&text), "client-certificate-data:", &cert) < 0 ||
        pki_verify(buf_view(&cert), ca_pem, now, NULL) < 0 ||
        pki_cert_parse(buf_view(&cert), &info, NULL) < 0) {
        return false;
    }
    bool young = now < info.not_before_s + (info.not_after_s - info.not_before_s) / 2;
    pki_info_fini(&info);
    return young;
}

int super_kubeconfig(struct sup *s, struct err *e) {
    AUTO_FD int fd =
        super_key_channel(s, "{\"scope\":\"admin\",\"profiles\":[\"" KEY_ADMIN "\"]}", NULL, e);
    AUTO(json_docp) struct json_doc *bundle = NULL;
    int rc = fd < 0 ? fd : key_bundle_sync(fd, "admin", &bundle, e);
    if (rc < 0) {
        return rc;
    }
    struct span ca = json_span(json_get(json_root(bundle), "ca"));
    struct pki_info info;
    uint64_t now = clock_wall_ns() / NS_PER_S;
    if ((rc = pki_cert_parse(ca, &info, e)) < 0) {
        return rc;
    }
    uint64_t from = info.not_before_s, to = info.not_after_s;
    pki_info_fini(&info);
    if (now < from || now > to) {
        char when[TIME_STR];
        time_rfc3339(now < from ? from : to, when);
        return err_set(e, ERR_INVALID,
                       "the clock of this machine is %s its certificates (%s %s): set the clock "
                       "and start again",
                       now < from ? "before" : "after", now < from ? "valid from" : "expired",
                       when);
    }
    if (still_good(s->o, ca)) {
        return 0;
    }
    struct key_identity id;
    const struct key_req r = {.scope = "admin", .profile = KEY_ADMIN};
    AUTO(buf) struct buf text = BUF_INIT(LIM_KUBECONFIG);
    key_identity_init(&id);
    if ((rc = key_issue_sync(fd, &r, &id, e)) == 0) {
        render(s->o, &id, &text);
        rc =
            sys_file_replace(AT_FDCWD, s->o->kubeconfig, buf_view(&text), s->o->kubeconfig_mode, e);
    }
    key_identity_fini(&id);
    if (text.p) {
        secret_wipe(text.p, text.cap);
    }
    return rc;
}
