/* agent — the life of a node: from the initrd to a supervised kubelet, as PID 1.
 *
 * What:     stage 1 (in the initrd): drivers, network, boot document, root image, switch_root. Stage 2 (in the image):
 *           host settings, containerd, join, certificates, kubelet and proxy as child processes.
 * Owns:     the machine. Credentials are kept in RAM (/run/kfarm) only.
 * Limits:   boot document 1 MiB; root image by its declared size.
 * Errors:   everything that cannot be helped ends in a message on the console and a reboot after a pause: a node is
 *           never left dead, and never needs a hand.
 * Threads:  none. Time: monotonic for timers, wall clock for certificates.
 * Spec:     docs/netboot.md (boot document, join), Kubernetes certificate signing requests.
 *
 *   /init ─▶ modules ─▶ DHCP ─▶ POST /v1/boot ─▶ root image ─▶ switch_root ─▶ host settings ─▶ containerd ┐
 *                                                                              └▶ join ─▶ certificates ─▶ kubelet, proxy
 */
#ifndef KF_AGENT_H
#define KF_AGENT_H

#include "internal/base/buf.h"

/* Never return but by failing: then the caller has nothing left to do but agent_give_up. */
NODISCARD int agent_stage1(struct err *e);
NODISCARD int agent_stage2(struct err *e);
/* Says why on the console, waits, reboots. */
_Noreturn void agent_give_up(const struct err *e);

#endif
