/* Private face of kube: the shape of the generated tables and the helpers its files share. */
#ifndef KF_KUBE_INT_H
#define KF_KUBE_INT_H

#include "internal/base/arena.h"
#include "internal/kube/kube.h"

/* What one value of a field is. */
enum kube_base {
    KB_OBJECT, /* fields by type */
    KB_STRING,
    KB_BYTES, /* base64 text */
    KB_BOOL,
    KB_INT32,
    KB_INT64,
    KB_DOUBLE,
    KB_QUANTITY,
    KB_TIME,
    KB_MICROTIME,
    KB_DURATION,
    KB_INTSTR,
    KB_RAW,    /* RawExtension: an object kept as it is */
    KB_FIELDS, /* fieldsV1 */
    KB_ANY,    /* any JSON value (apiextensions JSON) */
    KB_SCHEMA_OR_ARRAY,
    KB_SCHEMA_OR_BOOL,
    KB_SCHEMA_OR_STRINGS,
    KB_MAX_
};
/* How many values a field has. */
enum kube_shape { KS_ONE, KS_LIST, KS_MAP, KS_MAP_LIST /* map of string lists */ };
/* Which zero values are written (Go's omitempty and pointers). */
enum kube_presence {
    KP_PTR,      /* null is dropped, zero values stay */
    KP_OMIT,     /* zero values are dropped */
    KP_ZERO,     /* scalar always written, zero when absent */
    KP_STRUCT,   /* object always written; for times null */
    KP_NULLABLE, /* list written as null when empty */
    KP_KEEP,     /* list kept when empty, not added */
    KP_INLINE,   /* protobuf message around fields that JSON has inline; not a JSON field */
};
enum kube_list { KL_NONE, KL_ATOMIC, KL_SET, KL_MAP, KL_GRANULAR };
enum kube_field_flags {
    KF_REQUIRED = 1u << 0,
    KF_MERGE = 1u << 1,
    KF_RETAIN = 1u << 2,
    KF_REPLACE = 1u << 3
};
enum kube_type_flags {
    KT_DEFAULTS = 1u << 0 /* some field below has a default or a hook */,
    KT_PB = 1u << 1,
    KT_ATOMIC = 1u << 2 /* server-side apply owns it as a whole */
};

/* Types whose rows carry a number for code that a table cannot express: defaults, validation, printing. Read by gen.py. */
#define KUBE_HOOKS(X)                                                                     \
    X(POD, "api.core.v1.Pod")                                                             \
    X(POD_SPEC, "api.core.v1.PodSpec")                                                    \
    X(CONTAINER, "api.core.v1.Container")                                                 \
    X(EPHEMERAL_CONTAINER, "api.core.v1.EphemeralContainer")                              \
    X(CONTAINER_PORT, "api.core.v1.ContainerPort")                                        \
    X(PROBE, "api.core.v1.Probe")                                                         \
    X(HTTP_GET, "api.core.v1.HTTPGetAction")                                              \
    X(VOLUME, "api.core.v1.Volume")                                                       \
    X(RESOURCES, "api.core.v1.ResourceRequirements")                                      \
    X(SERVICE, "api.core.v1.Service")                                                     \
    X(SERVICE_SPEC, "api.core.v1.ServiceSpec")                                            \
    X(SERVICE_PORT, "api.core.v1.ServicePort")                                            \
    X(NAMESPACE, "api.core.v1.Namespace")                                                 \
    X(NODE, "api.core.v1.Node")                                                           \
    X(CONFIG_MAP, "api.core.v1.ConfigMap")                                                \
    X(SECRET, "api.core.v1.Secret")                                                       \
    X(SERVICE_ACCOUNT, "api.core.v1.ServiceAccount")                                      \
    X(EVENT, "api.core.v1.Event")                                                         \
    X(ENDPOINTS, "api.core.v1.Endpoints")                                                 \
    X(LIMIT_RANGE, "api.core.v1.LimitRange")                                              \
    X(LIMIT_RANGE_ITEM, "api.core.v1.LimitRangeItem")                                     \
    X(QUOTA, "api.core.v1.ResourceQuota")                                                 \
    X(PV, "api.core.v1.PersistentVolume")                                                 \
    X(PVC, "api.core.v1.PersistentVolumeClaim")                                           \
    X(RC, "api.core.v1.ReplicationController")                                            \
    X(POD_TEMPLATE, "api.core.v1.PodTemplate")                                            \
    X(DEPLOYMENT, "api.apps.v1.Deployment")                                               \
    X(REPLICA_SET, "api.apps.v1.ReplicaSet")                                              \
    X(DAEMON_SET, "api.apps.v1.DaemonSet")                                                \
    X(STATEFUL_SET, "api.apps.v1.StatefulSet")                                            \
    X(CONTROLLER_REVISION, "api.apps.v1.ControllerRevision")                              \
    X(JOB, "api.batch.v1.Job")                                                            \
    X(JOB_SPEC, "api.batch.v1.JobSpec")                                                   \
    X(CRON_JOB, "api.batch.v1.CronJob")                                                   \
    X(HPA, "api.autoscaling.v2.HorizontalPodAutoscaler")                                  \
    X(HPA_V1, "api.autoscaling.v1.HorizontalPodAutoscaler")                               \
    X(SCALE, "api.autoscaling.v1.Scale")                                                  \
    X(PDB, "api.policy.v1.PodDisruptionBudget")                                           \
    X(INGRESS, "api.networking.v1.Ingress")                                               \
    X(INGRESS_CLASS, "api.networking.v1.IngressClass")                                    \
    X(NETWORK_POLICY, "api.networking.v1.NetworkPolicy")                                  \
    X(SERVICE_CIDR, "api.networking.v1.ServiceCIDR")                                      \
    X(IP_ADDRESS, "api.networking.v1.IPAddress")                                          \
    X(ROLE, "api.rbac.v1.Role")                                                           \
    X(CLUSTER_ROLE, "api.rbac.v1.ClusterRole")                                            \
    X(ROLE_BINDING, "api.rbac.v1.RoleBinding")                                            \
    X(CLUSTER_ROLE_BINDING, "api.rbac.v1.ClusterRoleBinding")                             \
    X(LEASE, "api.coordination.v1.Lease")                                                 \
    X(ENDPOINT_SLICE, "api.discovery.v1.EndpointSlice")                                   \
    X(PRIORITY_CLASS, "api.scheduling.v1.PriorityClass")                                  \
    X(STORAGE_CLASS, "api.storage.v1.StorageClass")                                       \
    X(CSI_DRIVER, "api.storage.v1.CSIDriver")                                             \
    X(CSI_NODE, "api.storage.v1.CSINode")                                                 \
    X(VOLUME_ATTACHMENT, "api.storage.v1.VolumeAttachment")                               \
    X(RUNTIME_CLASS, "api.node.v1.RuntimeClass")                                          \
    X(CSR, "api.certificates.v1.CertificateSigningRequest")                               \
    X(WEBHOOK, "api.admissionregistration.v1.ValidatingWebhook")                          \
    X(MUTATING_WEBHOOK, "api.admissionregistration.v1.MutatingWebhook")                   \
    X(VALIDATING_WEBHOOKS, "api.admissionregistration.v1.ValidatingWebhookConfiguration") \
    X(MUTATING_WEBHOOKS, "api.admissionregistration.v1.MutatingWebhookConfiguration")     \
    X(VAP, "api.admissionregistration.v1.ValidatingAdmissionPolicy")                      \
    X(VAP_BINDING, "api.admissionregistration.v1.ValidatingAdmissionPolicyBinding")       \
    X(FLOW_SCHEMA, "api.flowcontrol.v1.FlowSchema")                                       \
    X(PRIORITY_LEVEL, "api.flowcontrol.v1.PriorityLevelConfiguration")                    \
    X(EVENTS_EVENT, "api.events.v1.Event")                                                \
    X(API_SERVICE, "kube-aggregator.pkg.apis.apiregistration.v1.APIService")              \
    X(CRD, "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition")  \
    X(SUBJECT, "api.rbac.v1.Subject")                                                     \
    X(OBJECT_META, "apimachinery.pkg.apis.meta.v1.ObjectMeta")                            \
    X(TENANT, "dev.kfarm.v1alpha1.Tenant")                                                \
    X(NETWORK, "dev.kfarm.v1alpha1.Network")                                              \
    X(IMAGE, "dev.kfarm.v1alpha1.Image")                                                  \
    X(HOST, "dev.kfarm.v1alpha1.Host")                                                    \
    X(MACHINE, "io.x-k8s.cluster.v1beta1.Machine")

enum kube_hook {
    KH_NONE,
#define X(n, t) KH_##n,
    KUBE_HOOKS(X)
#undef X
        KH_MAX_
};

struct kube_type {
    uint16_t name, pkg; /* kube_gen_str offsets: "Pod", "api.core.v1" */
    uint16_t first;     /* its fields in kube_gen_fields, sorted by name */
    uint16_t desc;
    uint8_t n;
    uint8_t hook;  /* enum kube_hook */
    uint8_t flags; /* enum kube_type_flags */
};

struct kube_field {
    uint16_t name;
    uint16_t type; /* index of the type for KB_OBJECT */
    uint16_t pb;   /* protobuf number, 0: none */
    uint16_t keys; /* list map keys, comma-separated, or 0 */
    uint16_t mkey; /* strategic merge key, or 0 */
    uint16_t def;  /* default as JSON, or 0 */
    uint16_t rule; /* check, or 0 (kube_valid_farm.c) */
    uint16_t desc; /* description in kube_gen_desc, or 0 */
    uint8_t base, shape, presence, list, flags;
    uint8_t by_pb; /* index of the field at this place in protobuf order */
};

struct kube_kind {
    const char *group, *version, *kind;
    uint16_t type;
};

/* One column of a table; `expr` says what its cells show (data/columns.tsv). */
struct kube_column {
    const char *name, *type, *format, *expr;
    uint8_t priority;
};

extern const struct kube_column kube_gen_columns[];
extern const char kube_gen_str[];
extern const char kube_gen_desc[];
extern const struct kube_type kube_gen_types[];
extern const size_t kube_gen_n_types;
extern const struct kube_field kube_gen_fields[];
extern const struct kube_kind kube_gen_kinds[];
extern const size_t kube_gen_n_kinds;
extern const struct kube_resource kube_gen_resources[];
extern const size_t kube_gen_n_resources;
extern const struct kube_group kube_gen_groups[];
extern const size_t kube_gen_n_groups;

static inline const char *kube_str(uint16_t off) {
    return kube_gen_str + off;
}
static inline const struct kube_field *kube_fields(const struct kube_type *t) {
    return kube_gen_fields + t->first;
}
static inline const struct kube_type *kube_field_type(const struct kube_field *f) {
    return kube_gen_types + f->type;
}
/* Field of t by JSON name, or NULL. */
const struct kube_field *kube_field_find(const struct kube_type *t, struct span name);
/* Type by full name ("api.core.v1.Pod"), or NULL. */
const struct kube_type *kube_type_named(const char *name);

/* Adds what Go would write for absent fields of v: zero numbers, empty objects, null lists. Not below existing ones. */
void kube_fill_absent(struct json_doc *d, struct json *v, const struct kube_type *t);
/* Why a text is no qualified name or label value: the rules it breaks, as upstream words them. */
size_t kube_qualified_msgs(struct span s, const char *ret[4]);
size_t kube_value_msgs(struct span s, const char *ret[2]);
void kube_qualified_name_why(struct span s, struct buf *b);
void kube_label_value_why(struct span s, struct buf *b);
/* Where apps/v1 keeps the DaemonSet field that it no longer has. */
#define TEMPLATE_GENERATION "deprecated.daemonset.template.generation"
const char *kube_qos(const struct json *pod);

/* A path under construction ("spec.containers[0].name"): grows and shrinks with the walk. */
struct kube_path {
    char s[1024];
    size_t n;
};
size_t kube_path_field(struct kube_path *p,
                       const char *name); /* returns the length before, for kube_path_pop */
size_t kube_path_index(struct kube_path *p, size_t i);
size_t kube_path_key(struct kube_path *p, const char *key);
static inline void kube_path_pop(struct kube_path *p, size_t n) {
    p->n = n;
    p->s[n] = 0;
}

/* The one text of decoding and patch errors. */
void kube_errs_text(struct kube_errs *e, const char *fmt, ...) PRINTF(2, 3);
int kube_patch_not(struct kube_errs *e, const char *go_type, const struct json *patch); /* of another kind; -ERR_INVALID */
struct arena *kube_errs_mem(struct kube_errs *e);
/* A cause as it stands, without a prefix of its kind. */
void kube_errs_raw(struct kube_errs *e, const char *reason, const char *field, const char *fmt, ...)
    PRINTF(4, 5);

#endif
