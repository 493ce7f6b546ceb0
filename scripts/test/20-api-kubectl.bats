# timeout: 600
# The API server driven with kubectl of two ages.

load kubectl.bash

setup_file() {
    api_setup
    OLD=$(kubectl_of old)
    NEW=$(kubectl_of new)
    export OLD NEW
    kubectl_sa default
}
teardown_file() {
    api_teardown
}

# What the service-account controller would do.
kubectl_sa() {
    "$NEW" create serviceaccount default -n "$1" >/dev/null
}

each() {
    for K in "$OLD" "$NEW"; do
        "$@" || return 1
    done
}

manifest() {
    cat <<'END'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {a: "1"}
END
}

@test "four namespaces and the kubernetes service exist from the start" {
    run "$NEW" get ns -o name
    [ "$output" = "namespace/default
namespace/kube-node-lease
namespace/kube-public
namespace/kube-system" ]
    [ "$("$NEW" get svc kubernetes -o jsonpath='{.spec.clusterIP}')" = 10.96.0.1 ]
    [ "$("$NEW" get endpointslices kubernetes -o jsonpath='{.endpoints[0].addresses[0]}')" = 192.0.2.1 ]
}

@test "discovery: api-resources and api-versions" {
    resources() {
        "$K" api-resources | grep -q '^deployments  *deploy' && "$K" api-versions | grep -qx apps/v1 &&
            "$K" api-resources | grep -q kfarm.dev
    }
    each resources
    ! "$NEW" api-resources | grep -q customresourcedefinitions
}

@test "apply: create, unchanged, configured, delete" {
    cycle() {
        manifest | "$K" apply -f - | grep -c created | grep -qx 3 &&
            manifest | "$K" apply -f - | grep -c unchanged | grep -qx 3 &&
            manifest | sed 's/"1"/"2"/' | "$K" apply -f - | grep -q 'configmap/cm configured' &&
            [ "$("$K" get cm cm -o jsonpath='{.data.a}')" = 2 ] &&
            "$K" get deploy web -o wide | grep -q nginx &&
            manifest | "$K" delete -f - | grep -c deleted | grep -qx 3
    }
    each cycle
}

@test "create, label, annotate, patch in three forms, replace, scale, delete" {
    edit() {
        "$K" create cm e --from-literal=a=1 && "$K" label cm e l=1 && "$K" annotate cm e n=1 &&
            "$K" patch cm e -p '{"data":{"b":"2"}}' &&
            "$K" patch cm e --type=merge -p '{"data":{"a":null}}' &&
            "$K" patch cm e --type=json -p '[{"op":"add","path":"/data/c","value":"3"}]' &&
            [ "$("$K" get cm e -o jsonpath='{.data}')" = '{"b":"2","c":"3"}' ] &&
            "$K" get cm e -o yaml | sed 's/c: "3"/c: "4"/' | "$K" replace -f - &&
            [ "$("$K" get cm e -o jsonpath='{.data.c}')" = 4 ] &&
            "$K" create deployment d --image=nginx && "$K" scale deployment d --replicas=3 &&
            [ "$("$K" get deployment d -o jsonpath='{.spec.replicas}')" = 3 ] &&
            "$K" delete deployment/d cm/e
    }
    each edit
}

@test "server-side apply: ownership and conflicts" {
    printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: "1"}\n' >"$WORK/ssa.yaml"
    "$NEW" apply --server-side --field-manager=one -f "$WORK/ssa.yaml"
    sed 's/"1"/"2"/' "$WORK/ssa.yaml" >"$WORK/ssa2.yaml"
    run "$NEW" apply --server-side --field-manager=two -f "$WORK/ssa2.yaml"
    [ "$status" != 0 ]
    [[ $output == *'conflict with "one"'* ]]
    "$NEW" apply --server-side --field-manager=two --force-conflicts -f "$WORK/ssa2.yaml"
    [ "$("$NEW" get cm ssa -o jsonpath='{.data.a}')" = 2 ]
    "$NEW" delete cm ssa
}

@test "selectors, all namespaces, chunks" {
    for i in 1 2 3 4 5; do
        "$NEW" create cm "s$i" --from-literal=a=1
        "$NEW" label cm "s$i" i=$i app=s
    done
    selecting() {
        [ "$("$K" get cm -l 'app=s,i in (1,2)' -o name | wc -l)" = 2 ] &&
            [ "$("$K" get cm --field-selector metadata.name=s3 -o name)" = configmap/s3 ] &&
            [ "$("$K" get cm -l app=s --chunk-size=2 -o name | wc -l)" = 5 ] &&
            "$K" get cm -A | grep -q 's5'
    }
    each selecting
    "$NEW" delete cm -l app=s
}

@test "watch tells additions, changes and deletions" {
    "$NEW" create cm w0 --from-literal=a=0
    "$NEW" label cm w0 w=1
    watching() {
        local out=$WORK/watch
        told() { for _ in $(seq 300); do grep -qx "$1" "$out" && return; sleep 0.1; done; cat "$out"; return 1; }
        "$K" get cm -w -l w=1 -o 'jsonpath={.metadata.name}={.data.a}{"\n"}' >"$out" &
        local pid=$!
        told w0=0 || return 1 # what it lists tells that it misses nothing from then on
        "$K" create cm w --from-literal=a=1 && "$K" label cm w w=1 && "$K" patch cm w -p '{"data":{"a":"2"}}' &&
            "$K" delete cm w
        told w=2
        kill $pid
        wait $pid 2>/dev/null
        [ "$(sort -u "$out")" = "w0=0
w=1
w=2" ]
    }
    each watching
    "$NEW" delete cm w0
}

@test "describe, explain, wait, events" {
    "$NEW" create cm x --from-literal=key=value
    look() {
        "$K" describe cm x | grep -q value && "$K" describe ns default | grep -q Active &&
            "$K" explain deployment.spec.replicas | grep -qi replicas &&
            "$K" explain tenant.spec >/dev/null &&
            "$K" get events | cat
    }
    each look
    "$NEW" wait --for=jsonpath='{.data.key}'=value cm/x --timeout=60s
    "$NEW" delete cm x
    "$NEW" wait --for=delete cm/x --timeout=60s
}

@test "auth: whoami, can-i, impersonation, forbidden" {
    "$NEW" auth whoami | grep -q kubernetes-admin
    [ "$("$NEW" auth can-i '*' '*')" = yes ]
    run "$NEW" auth can-i get pods --as bob
    [ "$output" = no ]
    run "$NEW" --kubeconfig "$WORK/bob.kubeconfig" get pods
    [[ $output == *'pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default"'* ]]
    "$NEW" create role r --verb=get,list --resource=pods
    "$NEW" create rolebinding r --role=r --group=devs
    "$NEW" --kubeconfig "$WORK/bob.kubeconfig" get pods
    run "$NEW" --kubeconfig "$WORK/bob.kubeconfig" get pods -A
    [ "$status" != 0 ]
    "$NEW" delete role/r rolebinding/r
}

@test "service-account tokens are issued, accepted, and die with the account" {
    "$NEW" create sa robot
    "$NEW" create clusterrolebinding robot --clusterrole=view --serviceaccount=default:robot
    token=$("$NEW" create token robot)
    robot=("$NEW" --kubeconfig /dev/null --server "https://127.0.0.1:$PORT" --certificate-authority "$PKI/ca.crt" --token "$token")
    "${robot[@]}" get cm
    "${robot[@]}" auth whoami | grep -q system:serviceaccount:default:robot
    run "${robot[@]}" create cm no
    [[ $output == *forbidden* ]]
    "$NEW" delete sa robot
    run "${robot[@]}" get cm
    [[ $output == *'must be logged in'* || $output == *Unauthorized* ]]
    "$NEW" delete clusterrolebinding robot
}

@test "bootstrap tokens authenticate" {
    "$NEW" -n kube-system create secret generic bootstrap-token-abcdef --type=bootstrap.kubernetes.io/token \
        --from-literal=token-id=abcdef --from-literal=token-secret=0123456789abcdef \
        --from-literal=usage-bootstrap-authentication=true --from-literal=auth-extra-groups=system:bootstrappers:x
    boot=("$NEW" --kubeconfig /dev/null --server "https://127.0.0.1:$PORT" --certificate-authority "$PKI/ca.crt" --token abcdef.0123456789abcdef)
    "${boot[@]}" auth whoami | grep -q system:bootstrap:abcdef
    [ "$("${boot[@]}" auth can-i create certificatesigningrequests)" = yes ]
    "$NEW" -n kube-system delete secret bootstrap-token-abcdef
    run "${boot[@]}" auth whoami
    [ "$status" != 0 ]
}

@test "a node sees and changes only what is its own" {
    node=("$NEW" --kubeconfig "$WORK/node.kubeconfig")
    printf 'apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n' | "${node[@]}" create -f -
    run bash -c "printf 'apiVersion: v1\nkind: Node\nmetadata: {name: n2}\n' | '$NEW' --kubeconfig '$WORK/node.kubeconfig' create -f -"
    [[ $output == *'is not allowed to modify node "n2"'* ]]
    run "${node[@]}" label node n1 node-restriction.kubernetes.io/x=1
    [ "$status" != 0 ]
    "${node[@]}" label node n1 example.com/x=1
    "$NEW" create secret generic mine --from-literal=a=1
    run "${node[@]}" get secret mine
    [[ $output == *forbidden* ]]
    printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: n1, containers: [{name: c, image: i, envFrom: [{secretRef: {name: mine}}]}]}\n' |
        "$NEW" create -f -
    "${node[@]}" get secret mine
    "$NEW" delete pod p --force --grace-period=0
    run "${node[@]}" get secret mine
    [ "$status" != 0 ]
    "$NEW" delete node n1
    "$NEW" delete secret mine
}

@test "finalizers hold an object until they are gone" {
    "$NEW" create cm f
    "$NEW" patch cm f --type=merge -p '{"metadata":{"finalizers":["example.com/f"]}}'
    "$NEW" delete cm f --wait=false
    [ -n "$("$NEW" get cm f -o jsonpath='{.metadata.deletionTimestamp}')" ]
    "$NEW" patch cm f --type=merge -p '{"metadata":{"finalizers":null}}'
    run "$NEW" get cm f
    [[ $output == *NotFound* ]]
}

@test "optimistic concurrency, strict validation, dry run" {
    "$NEW" create cm o --from-literal=a=1
    "$NEW" get cm o -o yaml >"$WORK/o.yaml"
    "$NEW" label cm o x=1
    run "$NEW" replace -f "$WORK/o.yaml"
    [[ $output == *'the object has been modified'* ]]
    run bash -c "printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\nspec: {foo: 1}\n' | '$NEW' create -f -"
    [[ $output == *'unknown field "spec"'* ]]
    "$NEW" create cm dry --dry-run=server
    run "$NEW" get cm dry
    [[ $output == *NotFound* ]]
    "$NEW" delete cm o
}

@test "farm kinds: create, columns, validation" {
    run bash -c "printf 'apiVersion: kfarm.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t}\nspec: {nope: 1}\n' | '$NEW' create -f -"
    [ "$status" != 0 ]
    printf 'apiVersion: kfarm.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t}\nspec: {}\n' | "$NEW" apply -f -
    "$NEW" get tenants
    "$NEW" get tn t -o name
    "$NEW" delete tenant t
}

@test "pod security levels, limit ranges and quotas of a namespace hold" {
    "$NEW" create ns strict
    kubectl_sa strict
    "$NEW" label ns strict pod-security.kubernetes.io/enforce=restricted
    run "$NEW" -n strict run p --image=i
    [[ $output == *'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'* ]]
    run "$NEW" label ns strict pod-security.kubernetes.io/warn=nonsense
    [[ $output == *'must be one of privileged, baseline, restricted'* ]]
    "$NEW" label --overwrite ns strict pod-security.kubernetes.io/enforce=baseline
    "$NEW" -n strict create quota q --hard=pods=2,requests.cpu=1
    run "$NEW" -n strict run p --image=i
    [[ $output == *'failed quota: q: must specify requests.cpu for: p'* ]]
    printf 'apiVersion: v1\nkind: LimitRange\nmetadata: {name: l, namespace: strict}\nspec: {limits: [{type: Container, defaultRequest: {cpu: 600m}}]}\n' |
        "$NEW" create -f -
    "$NEW" -n strict run p --image=i
    [ "$("$NEW" -n strict get pod p -o jsonpath='{.spec.containers[0].resources.requests.cpu}')" = 600m ]
    run "$NEW" -n strict run p2 --image=i
    [[ $output == *'exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1'* ]]
    "$NEW" -n strict delete pod p --force --grace-period=0
    "$NEW" -n strict run p2 --image=i
}

@test "what was acknowledged is there after SIGKILL, and a second start is quick" {
    "$NEW" create cm kept --from-literal=a=1
    rv=$("$NEW" get cm kept -o jsonpath='{.metadata.resourceVersion}')
    api_stop KILL
    api_start
    [ "$("$NEW" get cm kept -o jsonpath='{.metadata.resourceVersion}')" = "$rv" ]
    "$NEW" delete cm kept
}

@test "CustomResourceDefinitions are refused" {
    run bash -c "printf 'apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.b.c}\n' | '$NEW' create --validate=false -f -"
    [ "$status" != 0 ]
    [[ $output == *'no matches for kind'* ]]
}
