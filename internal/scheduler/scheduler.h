/* scheduler — binds pods to nodes, as kube-scheduler's default profile does.
 *
 * What:     watches pods and nodes through shared informers, filters, scores, binds; records Scheduled and FailedScheduling
 *           events and the PodScheduled condition; preempts lower priorities when nothing else helps.
 * Owns:     its queue and its accounting of nodes; informers belong to the factory.
 * Limits:   LIM_SCHED_ROUND pods a wake-up, so that a burst does not starve the loop.
 * Errors:   what fails is tried again with back-off.
 * Threads:  the loop's.
 * Time:     the loop's; the wall clock for stamps.
 * Spec:     filters NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit,
 *           PodTopologySpread, InterPodAffinity (required), VolumeBinding (bound claims only); scores
 *           LeastAllocated, BalancedAllocation, NodeAffinity, TaintToleration, spread of a pod's own controller.
 *           Not done: preferred inter-pod affinity, dynamic resource allocation, waiting volume binding, extenders.
 */
#ifndef KF_SCHEDULER_H
#define KF_SCHEDULER_H

#include "internal/kclient/kclient.h"

enum { LIM_SCHED_ROUND = 64 };

struct scheduler;
struct scheduler_opts {
    const char *name;       /* spec.schedulerName that it serves; NULL: default-scheduler */
    struct kclient *writer; /* for bindings, events, status: the scheduler's own identity; NULL: the factory's client */
};
struct scheduler *scheduler_start(struct kfactory *f, const struct scheduler_opts *o);

#endif
