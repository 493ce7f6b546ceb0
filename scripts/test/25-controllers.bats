# timeout: 600
# The controllers and the scheduler against the API server, with kubelets played by lib/fake_kubelet.py.

load kubectl.bash

setup_file() {
    api_setup
    K=$(kubectl_of new)
    export K
    make_cert sched /CN=system:kube-scheduler
    make_kubeconfig sched
    controllers_start
    kubelets_start n1 n2 n3
    wait_for nodes_ready 3
}
teardown_file() {
    local f
    for f in "$WORK"/*.pid; do
        kill "$(cat "$f")" 2>/dev/null
    done
    sleep 0.3
    api_teardown
}

controllers_start() { # further flags
    "$KFARM" controllers --kubeconfig "$WORK/admin.kubeconfig" --scheduler-kubeconfig "$WORK/sched.kubeconfig" \
        --root-ca-file "$PKI/ca.crt" --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" \
        --cluster-cidr 10.244.0.0/16 --service-cluster-ip-range 10.96.0.0/16 --node-monitor-grace-period 6s "$@" \
        >>"$WORK/controllers.log" 2>&1 3>&- &
    echo $! >"$WORK/controllers.pid"
}
kubelets_start() {
    mkfifo "$WORK/kubelets.in"
    python3 "$BATS_TEST_DIRNAME/lib/fake_kubelet.py" "https://127.0.0.1:$PORT" "$PKI/ca.crt" "$PKI/admin.crt" \
        "$PKI/admin.key" "$WORK" "$@" <>"$WORK/kubelets.in" >"$WORK/kubelets.log" 2>&1 3>&- &
    echo $! >"$WORK/kubelets.pid"
}

k() { timeout 90 "$K" "$@"; }
# What the controllers do in milliseconds is awaited as long as a machine under load may need.
wait_for() {
    local end=$((SECONDS + 120))
    while ((SECONDS <= end)); do
        "$@" && return 0
        sleep 0.05
    done
    echo "waited in vain for: $*" >&2
    tail -n 5 "$WORK/controllers.log" "$WORK/kubelets.log" >&2
    return 1
}
nodes_ready() { [ "$(k get nodes --no-headers 2>/dev/null | grep -cw Ready)" = "$1" ]; }
# is KIND/NAME JSONPATH VALUE [-n NS]
is() { [ "$(k get "$1" -o jsonpath="$2" "${@:4}" 2>/dev/null)" = "$3" ]; }
gone() { ! k get "$@" >/dev/null 2>&1; }
no_pods() { [ -z "$(k get pods -o name "$@" 2>/dev/null)" ]; }
# event PATTERN [-n NS]: "REASON OBJECT MESSAGE" of one; they are written after what they tell of.
event() { k get events "${@:2}" -o custom-columns=R:.reason,O:.involvedObject.name,M:.message --no-headers | grep "$1"; }

deployment() { # NAME REPLICAS [IMAGE] [STRATEGY]
    cat <<END
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: $2
  strategy: {type: ${4:-RollingUpdate}}
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec: {containers: [{name: c, image: "${3:-a:1}", resources: {requests: {cpu: 100m}}}]}
END
}

@test "every namespace gets its service account and the root CA" {
    k create ns acc
    wait_for is sa/default '{.metadata.name}' default -n acc
    wait_for is cm/kube-root-ca.crt '{.metadata.name}' kube-root-ca.crt -n acc
    [ "$(k get cm kube-root-ca.crt -n acc -o jsonpath='{.data.ca\.crt}')" = "$(cat "$PKI/ca.crt")" ]
    k delete cm kube-root-ca.crt -n acc
    wait_for is cm/kube-root-ca.crt '{.metadata.name}' kube-root-ca.crt -n acc
    k delete ns acc --timeout=120s
    gone ns acc
}

@test "nodes get pod ranges that differ" {
    three() { [ "$(k get nodes -o jsonpath='{.items[*].spec.podCIDR}' | tr ' ' '\n' | sort -u | grep -c '^10.244')" = 3 ]; }
    wait_for three
}

@test "a deployment becomes pods on nodes" {
    local t0=${EPOCHREALTIME/./}
    deployment web 3 | k apply -f -
    k rollout status deploy/web --timeout=60s
    echo "$(((${EPOCHREALTIME/./} - t0) / 1000)) ms"
    [ "$(k get pods -l app=web -o jsonpath='{.items[*].spec.nodeName}' | tr ' ' '\n' | sort -u | wc -l)" = 3 ]
    wait_for event '^Scheduled'
    wait_for event '^SuccessfulCreate'
    wait_for event '^ScalingReplicaSet.*Scaled up replica set web-.* from 0 to 3'
    k get deploy web -o jsonpath='{.metadata.annotations.deployment\.kubernetes\.io/revision}' | grep -x 1
}

@test "rolling update, history, undo, scale, pause" {
    deployment web 3 a:2 | k apply -f -
    k rollout status deploy/web --timeout=60s
    wait_for is deploy/web '{.status.replicas}' 3
    [ "$(k get rs -l app=web --no-headers | wc -l)" = 2 ]
    only_new() { [ "$(k get pods -l app=web -o jsonpath='{.items[*].spec.containers[0].image}' | tr ' ' '\n' | sort -u)" = a:2 ]; }
    wait_for only_new # when the kubelets have ended the old ones
    k rollout history deploy/web | grep -q '^2 '
    k rollout undo deploy/web
    k rollout status deploy/web --timeout=60s
    [ "$(k get rs -l app=web --no-headers | wc -l)" = 2 ]
    k get deploy web -o jsonpath='{.metadata.annotations.deployment\.kubernetes\.io/revision}' | grep -x 3
    k scale deploy/web --replicas=6
    wait_for is deploy/web '{.status.readyReplicas}' 6
    k rollout pause deploy/web
    k set image deploy/web c=a:3
    wait_for is deploy/web '{.status.conditions[?(@.type=="Progressing")].reason}' DeploymentPaused
    sleep 0.3
    [ "$(k get rs -l app=web --no-headers | wc -l)" = 2 ]
    k rollout resume deploy/web
    k rollout status deploy/web --timeout=60s
    [ "$(k get rs -l app=web --no-headers | wc -l)" = 3 ]
}

@test "Recreate never runs two versions side by side" {
    deployment re 2 a:1 Recreate | k apply -f -
    k rollout status deploy/re --timeout=60s
    deployment re 2 a:2 Recreate | k apply -f -
    k rollout status deploy/re --timeout=60s
    [ "$(k get pods -l app=re -o jsonpath='{.items[*].spec.containers[0].image}' | tr ' ' '\n' | sort -u)" = a:2 ]
    k delete deploy re
    wait_for no_pods -l app=re
}

@test "a ReplicaSet adopts, releases and replaces pods" {
    local pod
    pod=$(k get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
    k label pod "$pod" app=other --overwrite
    wait_for is "pod/$pod" '{.metadata.ownerReferences}' ''
    wait_for is deploy/web '{.status.readyReplicas}' 6
    k delete pod "$pod"
    k delete pod -l app=web --field-selector "metadata.name=$(k get pods -l app=web -o jsonpath='{.items[0].metadata.name}')" || true
    wait_for is deploy/web '{.status.readyReplicas}' 6
}

@test "deleting an owner: background, orphan, foreground" {
    deployment bg 2 | k apply -f -
    k rollout status deploy/bg --timeout=60s
    k delete deploy bg
    wait_for no_pods -l app=bg
    gone rs -l app=bg || [ -z "$(k get rs -l app=bg -o name)" ]
    deployment orph 1 | k apply -f -
    k rollout status deploy/orph --timeout=60s
    k delete deploy orph --cascade=orphan --timeout=120s
    is rs '{.items[0].metadata.ownerReferences}' '' -l app=orph
    [ -n "$(k get pods -l app=orph -o name)" ]
    k delete rs -l app=orph --cascade=foreground --timeout=120s
    no_pods -l app=orph
    # any kind: a ConfigMap owned by another
    k create cm owner
    local uid
    uid=$(k get cm owner -o jsonpath='{.metadata.uid}')
    k apply -f - <<END
apiVersion: v1
kind: ConfigMap
metadata: {name: owned, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: $uid}]}
END
    sleep 0.3
    k get cm owned
    k delete cm owner
    wait_for gone cm owned
    # an owner that never was
    k apply -f - <<END
apiVersion: v1
kind: ConfigMap
metadata: {name: owned, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: $uid}]}
END
    wait_for gone cm owned
}

@test "services have endpoints and slices of ready pods" {
    k apply -f - <<'END'
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
END
    wait_for is endpointslices '{.items[0].ports[0].port}' 8080 -l kubernetes.io/service-name=web
    slice_has() {
        [ "$(k get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[0].endpoints[*].addresses[0]}' | wc -w)" = "$1" ] &&
            [ "$(k get endpoints web -o jsonpath='{.subsets[0].addresses[*].ip}' | wc -w)" = "$1" ]
    }
    wait_for slice_has 6
    k scale deploy/web --replicas=2
    wait_for slice_has 2
    k delete svc web
    wait_for gone endpoints web
    slice_gone() { [ -z "$(k get endpointslices -l kubernetes.io/service-name=web -o name)" ]; }
    wait_for slice_gone
    k delete deploy web
}

@test "a DaemonSet follows the nodes and its template" {
    k apply -f - <<'END'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds}
spec:
  selector: {matchLabels: {app: ds}}
  template:
    metadata: {labels: {app: ds}}
    spec: {containers: [{name: c, image: "a:1"}]}
END
    wait_for is ds/ds '{.status.numberAvailable}' 3
    k set image ds/ds c=a:2
    k rollout status ds/ds --timeout=60s
    [ "$(k get pods -l app=ds -o jsonpath='{.items[*].spec.containers[0].image}' | tr ' ' '\n' | sort -u)" = a:2 ]
    [ "$(k get controllerrevisions -l app=ds --no-headers | wc -l)" = 2 ]
    k rollout undo ds/ds
    k rollout status ds/ds --timeout=60s
    [ "$(k get pods -l app=ds -o jsonpath='{.items[*].spec.containers[0].image}' | tr ' ' '\n' | sort -u)" = a:1 ]
    k patch ds ds -p '{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"n2"}}}}}'
    wait_for is ds/ds '{.status.desiredNumberScheduled}' 1
    wait_for is pods '{.items[*].spec.nodeName}' n2 -l app=ds
    k delete ds ds
    wait_for no_pods -l app=ds
}

@test "jobs: completions, failure, indexes, time to live" {
    k apply -f - <<'END'
apiVersion: batch/v1
kind: Job
metadata: {name: ok}
spec:
  completions: 5
  parallelism: 2
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: x, args: [succeed]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: bad}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: x, args: [fail]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: idx}
spec:
  completions: 4
  parallelism: 4
  completionMode: Indexed
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: x, args: [succeed]}]}}
END
    k wait --for=condition=complete job/ok job/idx --timeout=60s
    k wait --for=condition=failed job/bad --timeout=60s
    is job/ok '{.status.succeeded}' 5
    is job/bad '{.status.failed}' 1
    is job/idx '{.status.completedIndexes}' 0-3
    finalizers_gone() { [ -z "$(k get pods -l job-name -o jsonpath='{.items[*].metadata.finalizers}')" ]; }
    wait_for finalizers_gone
    k patch job ok -p '{"spec":{"ttlSecondsAfterFinished":1}}'
    wait_for gone job ok
    k delete job bad idx
    wait_for no_pods -l job-name
}

@test "a StatefulSet goes up, rolls and comes down in order" {
    k apply -f - <<'END'
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: st}
spec:
  serviceName: st
  replicas: 3
  selector: {matchLabels: {app: st}}
  template:
    metadata: {labels: {app: st}}
    spec: {containers: [{name: c, image: "a:1"}]}
END
    wait_for is sts/st '{.status.readyReplicas}' 3
    [ "$(k get pods -l app=st -o jsonpath='{.items[*].metadata.name}')" = "st-0 st-1 st-2" ]
    is pod/st-1 '{.spec.hostname}.{.spec.subdomain}' st-1.st
    local uid
    uid=$(k get pod st-0 -o jsonpath='{.metadata.uid}')
    k patch sts st -p '{"spec":{"updateStrategy":{"rollingUpdate":{"partition":1}},"template":{"spec":{"containers":[{"name":"c","image":"a:2"}]}}}}'
    wait_for is pod/st-1 '{.spec.containers[0].image}{.status.phase}' a:2Running
    is pod/st-0 '{.metadata.uid}' "$uid"
    k patch sts st -p '{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}'
    k rollout status sts/st --timeout=60s
    is pod/st-0 '{.spec.containers[0].image}' a:2
    uid=$(k get pod st-1 -o jsonpath='{.metadata.uid}')
    k delete pod st-1 --wait=false # kubectl waits in vain when the next one is there before its watch
    another() { [ "$(k get pod st-1 -o jsonpath='{.metadata.uid}')" != "$uid" ] && is pod/st-1 '{.status.phase}' Running; }
    wait_for another
    wait_for is sts/st '{.status.readyReplicas}' 3
    k scale sts st --replicas=1
    wait_for is pods '{.items[*].metadata.name}' st-0 -l app=st
    k delete sts st
    wait_for no_pods -l app=st
}

@test "a CronJob starts jobs at its times and keeps a few" {
    k apply -f - <<'END'
apiVersion: batch/v1
kind: CronJob
metadata: {name: cj}
spec:
  schedule: "* * * * *"
  suspend: true
  successfulJobsHistoryLimit: 1
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x, args: [succeed]}]}}}}
END
    local i
    for i in 3 2; do
        k patch cronjob cj --subresource=status --type=merge -p "{\"status\":{\"lastScheduleTime\":\"$(date -u -d "-$i minutes" +%FT%TZ)\"}}"
        k patch cronjob cj -p '{"spec":{"suspend":false}}'
        wait_for eval '[ -n "$(k get cronjob cj -o jsonpath={.status.lastSuccessfulTime})" ]'
        k patch cronjob cj -p '{"spec":{"suspend":true}}'
    done
    one_kept() { [ "$(k get jobs --no-headers | grep -c '^cj-')" = 1 ]; }
    wait_for one_kept
    wait_for event '^SawCompletedJob *cj'
    k delete cronjob cj
    job_gone() { [ -z "$(k get jobs -o name)" ]; }
    wait_for job_gone
}

@test "a quota counts up, refuses, and counts down" {
    k create ns q
    k create quota q -n q --hard=pods=2,requests.cpu=1,count/configmaps=3,services=1
    wait_for is quota/q '{.status.used.pods} {.status.used.requests\.cpu} {.status.used.count/configmaps}' '0 0 1' -n q
    deployment big 3 | k apply -n q -f -
    wait_for is deploy/big '{.status.readyReplicas}' 2 -n q
    wait_for is quota/q '{.status.used.pods} {.status.used.requests\.cpu}' '2 200m' -n q
    wait_for is rs '{.items[0].status.conditions[0].reason}' FailedCreate -n q
    wait_for event '^FailedCreate.*exceeded quota' -n q
    k create cm a -n q
    k create cm b -n q
    ! k create cm c -n q || false
    k delete cm a -n q
    wait_for is quota/q '{.status.used.count/configmaps}' 2 -n q
    k create cm c -n q
    k delete deploy big -n q
    wait_for is quota/q '{.status.used.pods}' 0 -n q
    k delete ns q --timeout=120s
}

@test "a disruption budget counts what may be evicted" {
    deployment b 3 | k apply -f -
    k create pdb b --selector=app=b --min-available=2
    wait_for is pdb/b '{.status.disruptionsAllowed} {.status.currentHealthy} {.status.expectedPods}' '1 3 3'
    k scale deploy b --replicas=2
    wait_for is pdb/b '{.status.disruptionsAllowed}' 0
    k delete pdb b
    k delete deploy b
}

@test "the scheduler says why a pod waits, and binds it when it fits" {
    k run big --image=x --overrides='{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"100"}}}]}}'
    k run far --image=x --overrides='{"spec":{"nodeSelector":{"zone":"z"}}}'
    wait_for is pod/big '{.status.conditions[?(@.type=="PodScheduled")].message}' '0/3 nodes are available: 3 Insufficient cpu.'
    wait_for is pod/far '{.status.conditions[?(@.type=="PodScheduled")].reason}' Unschedulable
    k label node n2 zone=z
    wait_for is pod/far '{.spec.nodeName}' n2
    k label node n2 zone-
    k taint node n1 a=b:NoSchedule
    k cordon n2
    k run third --image=x
    wait_for is pod/third '{.spec.nodeName}' n3
    k uncordon n2
    k taint node n1 a-
    k delete pod big far third
}

@test "a pod of higher priority takes the place of lower ones" {
    k create priorityclass high --value=1000
    local i
    for i in 1 2 3; do
        k run low$i --image=x --overrides='{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"3"}}}]}}'
    done
    k wait --for=condition=Ready pod/low1 pod/low2 pod/low3 --timeout=60s
    k run high --image=x --overrides='{"spec":{"priorityClassName":"high","containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"3"}}}]}}'
    k wait --for=condition=Ready pod/high --timeout=60s
    [ "$(k get pods --no-headers low1 low2 low3 --ignore-not-found | wc -l)" = 2 ]
    k delete pod high low1 low2 low3 --ignore-not-found
    k delete priorityclass high
}

@test "kubelets get client and serving certificates, others do not" {
    csr() { # NAME SIGNER USAGE KUBECONFIG [SUBJECT]
        openssl req -new -key "$PKI/node.key" -subj "${5:-/O=system:nodes/CN=system:node:n1}" ${6:+-addext "$6"} -out "$WORK/r.csr"
        k --kubeconfig "$4" apply -f - <<END
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: $1}
spec:
  signerName: kubernetes.io/$2
  usages: [digital signature, $3]
  request: $(base64 -w0 <"$WORK/r.csr")
END
    }
    make_cert boot "/O=system:bootstrappers/O=system:bootstrappers:kfarm:default-node-token/CN=system:bootstrap:n1"
    make_kubeconfig boot
    csr c1 kube-apiserver-client-kubelet "client auth" "$WORK/boot.kubeconfig"
    issued() { [ -n "$(k get csr "$1" -o jsonpath='{.status.certificate}')" ]; }
    wait_for issued c1
    k get csr c1 -o jsonpath='{.status.certificate}' | base64 -d | openssl verify -CAfile "$PKI/ca.crt"
    k get csr c1 -o jsonpath='{.status.certificate}' | base64 -d | openssl x509 -noout -subject | grep -q system:node:n1
    csr c2 kubelet-serving "server auth" "$WORK/node.kubeconfig" "" "subjectAltName=DNS:n1,IP:10.0.0.1"
    wait_for issued c2
    # the ticket of n1 does not open n2; a stranger's address is not certified
    csr c3 kube-apiserver-client-kubelet "client auth" "$WORK/boot.kubeconfig" /O=system:nodes/CN=system:node:n2
    csr c4 kubelet-serving "server auth" "$WORK/node.kubeconfig" "" "subjectAltName=IP:10.9.9.9"
    sleep 1
    ! issued c3 || false
    ! issued c4 || false
    k certificate approve c4
    wait_for issued c4
    k delete csr --all
}

@test "bootstrap tokens sign cluster-info and expire" {
    k apply -f - <<END
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData: {token-id: abcdef, token-secret: "0123456789abcdef", usage-bootstrap-signing: "true", usage-bootstrap-authentication: "true"}
END
    signed() { [ -n "$(k get cm cluster-info -n kube-public -o jsonpath='{.data.jws-kubeconfig-abcdef}')" ]; }
    wait_for signed
    k get cm cluster-info -n kube-public -o json >"$WORK/info.json"
    python3 - "$WORK/info.json" <<'END'
import base64, hashlib, hmac, json, sys
d = json.load(open(sys.argv[1]))["data"]
head, body, sig = d["jws-kubeconfig-abcdef"].split(".")
b64 = lambda b: base64.urlsafe_b64encode(b).rstrip(b"=").decode()
assert body == ""
want = hmac.new(b"0123456789abcdef", f"{head}.{b64(d['kubeconfig'].encode())}".encode(), hashlib.sha256).digest()
assert b64(want) == sig
END
    k patch secret bootstrap-token-abcdef -n kube-system -p "{\"stringData\":{\"expiration\":\"$(date -u -d '+2 seconds' +%FT%TZ)\"}}"
    wait_for gone secret bootstrap-token-abcdef -n kube-system
    not_signed() { ! signed; }
    wait_for not_signed
}

@test "cluster roles aggregate" {
    k apply -f - <<'END'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: part, labels: {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}
rules: [{apiGroups: [x.example], resources: [things], verbs: [get]}]
END
    has_rule() { k get clusterrole view -o json | grep -q x.example; }
    wait_for has_rule
    k delete clusterrole part
    wait_for eval '! has_rule'
}

@test "a namespace goes with all that is in it" {
    k create ns full
    deployment web 2 | k apply -n full -f -
    k create cm -n full x
    k create secret generic -n full s
    k rollout status deploy/web -n full --timeout=60s
    for j in waits orphan; do
        k apply -n full -f - <<END
apiVersion: batch/v1
kind: Job
metadata: {name: $j}
spec: {template: {spec: {restartPolicy: Never, nodeSelector: {no: where}, containers: [{name: c, image: x}]}}}
END
        wait_for is pods '{.items[*].metadata.finalizers[0]}' batch.kubernetes.io/job-tracking -n full -l job-name=$j
    done
    # pods that no job counts any more are not held by its finalizer
    k delete job orphan -n full --cascade=orphan --timeout=120s
    wait_for is pods '{.items[*].metadata.finalizers}' '' -n full -l job-name=orphan
    k delete ns full --timeout=120s
    gone ns full
    # content with a finalizer holds it, and is named
    k create ns held
    k apply -n held -f - <<'END'
apiVersion: v1
kind: ConfigMap
metadata: {name: x, finalizers: [example.com/hold]}
END
    k delete ns held --wait=false
    wait_for is ns/held '{.status.conditions[?(@.type=="NamespaceFinalizersRemaining")].status}' True
    k patch cm x -n held --type=merge -p '{"metadata":{"finalizers":null}}'
    wait_for gone ns held
}

@test "a silent node becomes Unknown, its pods move; it comes back" {
    deployment mv 3 | k apply -f -
    k patch deploy mv -p '{"spec":{"template":{"spec":{"tolerations":[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":1}]}}}}'
    k rollout status deploy/mv --timeout=60s
    touch "$WORK/silent-n1"
    wait_for is node/n1 '{.status.conditions[?(@.type=="Ready")].status}' Unknown
    wait_for is node/n1 '{.spec.taints[*].key}' 'node.kubernetes.io/unreachable node.kubernetes.io/unreachable'
    moved() { [ "$(k get pods -l app=mv --field-selector spec.nodeName!=n1 --no-headers | grep -c Running)" = 3 ]; }
    wait_for moved
    wait_for event '^NodeNotReady *n1'
    rm "$WORK/silent-n1"
    wait_for nodes_ready 3
    wait_for is node/n1 '{.spec.taints}' ''
    k delete deploy mv
}

@test "killing the controllers loses nothing" {
    deployment kill 2 | k apply -f -
    kill -KILL "$(cat "$WORK/controllers.pid")"
    k scale deploy/kill --replicas=4
    k create ns later
    controllers_start
    k rollout status deploy/kill --timeout=60s
    wait_for is deploy/kill '{.status.readyReplicas}' 4
    wait_for is sa/default '{.metadata.name}' default -n later
    k delete deploy kill
    k delete ns later --timeout=120s
}

@test "the controllers outlive a restart of the API server" {
    deployment api 2 | k apply -f -
    api_stop -KILL
    sleep 0.3
    api_start
    k scale deploy/api --replicas=3
    wait_for is deploy/api '{.status.readyReplicas}' 3
    [ "$(k get pods -l app=api --no-headers | wc -l)" = 3 ]
    kill -0 "$(cat "$WORK/controllers.pid")"
}

holders() { k get leases -n kube-system -o custom-columns=H:.spec.holderIdentity --no-headers | grep -vc '<none>\|^$'; }

@test "controllers and scheduler hold their Leases, and give them back" {
    k get lease -n kube-system kube-controller-manager kube-scheduler
    [ "$(holders)" = 2 ]
    kill "$(cat "$WORK/controllers.pid")"
    wait_for is lease/kube-scheduler '{.spec.holderIdentity}' '' -n kube-system
    wait_for is lease/kube-controller-manager '{.spec.holderIdentity}' '' -n kube-system
}

# As kfarm server starts it, which has one of them.
@test "an idle controllers process is small and sleeps" {
    local pid
    controllers_start --leader-elect=false
    pid=$(cat "$WORK/controllers.pid")
    kill "$(cat "$WORK/kubelets.pid")"
    # What becomes of nodes without a kubelet, and of their pods, is work; it was what this test once measured.
    wait_for nodes_ready 0
    awk '/^Private/ { n += $2 } END { print n " KiB private"; exit n > 4096 }' "/proc/$pid/smaps"
    # Not one wake-up: no timer runs that has nothing to do, so a slow machine changes nothing. The further tries are for
    # a minute's bookmarks of the watches, and for work left over.
    wakeups() { cat /proc/"$pid"/task/*/status | awk '/^voluntary_ctxt_switches/ { n += $2 } END { print n }'; }
    sleeps() { local n; n=$(wakeups) && sleep 2 && [ "$(wakeups)" = "$n" ]; }
    for _ in $(seq 20); do
        sleeps && return
    done
    false
}
