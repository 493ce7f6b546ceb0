/* Inside the certificate request controllers. */
#ifndef KF_CTL_CSR_INT_H
#define KF_CTL_CSR_INT_H

#include "internal/controllers/ctl_int.h"
#include "internal/pki/pki.h"

#define SIGNER_CLIENT "kubernetes.io/kube-apiserver-client"
#define SIGNER_KUBELET_CLIENT "kubernetes.io/kube-apiserver-client-kubelet"
#define SIGNER_KUBELET_SERVING "kubernetes.io/kubelet-serving"
#define SIGNER_LEGACY "kubernetes.io/legacy-unknown"

struct kinformer *csr_informer(struct controllers *c);
/* The request in PEM; parsed into ret (to be released with pki_info_fini). */
NODISCARD int csr_parse(const struct json *csr, struct buf *pem, struct pki_info *ret, struct err *e);
bool csr_has(const struct json *csr, const char *condition);
/* Does the request keep the rules of its signer (subject, names, usages)? NULL: yes; else what is wrong. */
const char *csr_breaks_rules(const struct json *csr, const struct pki_info *i);

#endif
