// Run by 22-api-node.sh; prints TAP.
import assert from 'node:assert';
import * as k8s from '@kubernetes/client-node';

const kc = new k8s.KubeConfig();
kc.loadFromDefault();
const core = kc.makeApiClient(k8s.CoreV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(kc);
const sleep = ms => new Promise(r => setTimeout(r, ms));

const tests = {
    'create, read, patch, delete': async () => {
        const made = await core.createNamespacedConfigMap({ namespace: 'default', body: { metadata: { name: 'a' }, data: { a: '1' } } });
        assert.ok(made.metadata.uid);
        const patched = await core.patchNamespacedConfigMap({
            name: 'a', namespace: 'default', body: [{ op: 'add', path: '/data/b', value: '2' }],
        });
        assert.deepEqual(patched.data, { a: '1', b: '2' });
        await core.deleteNamespacedConfigMap({ name: 'a', namespace: 'default' });
        await assert.rejects(core.readNamespacedConfigMap({ name: 'a', namespace: 'default' }), e => e.code === 404);
    },
    'server-side apply of any object': async () => {
        const spec = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ssa', namespace: 'default' }, data: { a: '1' } };
        await objects.patch(spec, undefined, undefined, 'js', true, k8s.PatchStrategy.ServerSideApply);
        const read = await objects.read(spec);
        assert.equal(read.data.a, '1');
        assert.equal(read.metadata.managedFields[0].manager, 'js');
        await objects.delete(spec);
    },
    'watch': async () => {
        const seen = [];
        const w = new k8s.Watch(kc);
        const abort = await w.watch('/api/v1/namespaces/default/secrets', {}, (type, obj) => seen.push(`${type} ${obj.metadata.name}`), () => {});
        await sleep(300);
        await core.createNamespacedSecret({ namespace: 'default', body: { metadata: { name: 's' } } });
        await core.deleteNamespacedSecret({ name: 's', namespace: 'default' });
        await sleep(500);
        abort.abort();
        assert.deepEqual(seen, ['ADDED s', 'DELETED s']);
    },
    'informer': async () => {
        const seen = new Set();
        const informer = k8s.makeInformer(kc, '/api/v1/namespaces', () => core.listNamespace());
        informer.on('add', o => seen.add(o.metadata.name));
        informer.on('error', () => {});
        await informer.start();
        await sleep(300);
        await core.createNamespace({ body: { metadata: { name: 'from-js' } } });
        await sleep(500);
        await informer.stop();
        for (const n of ['default', 'kube-system', 'kube-public', 'kube-node-lease', 'from-js']) {
            assert.ok(seen.has(n), n);
        }
    },
    'version and access review': async () => {
        const v = await kc.makeApiClient(k8s.VersionApi).getCode();
        assert.equal(v.minor, '36');
        const r = await kc.makeApiClient(k8s.AuthorizationV1Api).createSelfSubjectAccessReview({
            body: { spec: { resourceAttributes: { verb: 'delete', resource: 'nodes' } } },
        });
        assert.equal(r.status.allowed, true);
    },
};

let n = 0;
let failed = 0;
console.log(`1..${Object.keys(tests).length}`);
for (const [name, fn] of Object.entries(tests)) {
    n++;
    try {
        await fn();
        console.log(`ok ${n} - ${name}`);
    } catch (e) {
        failed++;
        console.log(`not ok ${n} - ${name}`);
        console.log(String(e && e.stack).replace(/^/gm, '# '));
    }
}
process.exit(failed ? 1 : 0);
