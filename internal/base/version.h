/* version — what this program calls itself and which Kubernetes API it speaks. */
#ifndef KF_VERSION_H
#define KF_VERSION_H

#define KF_VERSION "0.1.0"
#define KF_KUBE_VERSION "v1.36.2"
#define KF_KUBE_GIT_VERSION KF_KUBE_VERSION "+kfarm-" KF_VERSION

/* What Kubernetes calls the processor this was compiled for. */
#if defined(__x86_64__)
#define KF_ARCH "amd64"
#elif defined(__aarch64__)
#define KF_ARCH "arm64"
#else
#error "the name of this processor in Kubernetes is not known here"
#endif

#endif
