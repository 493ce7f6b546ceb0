// Drives the etcd3 package; TAP on stdout. Starts kfarm store itself, since watchers and leases must survive its restart.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Etcd3, EtcdLockFailedError, EtcdPermissionDeniedError, EtcdAuthenticationFailedError } from 'etcd3';

const { KFARM, WORK, PORT } = process.env;
const hosts = `http://127.0.0.1:${PORT}`;
let server;

async function start() {
    server = spawn(KFARM, ['store', '--data-dir', `${WORK}/npm`, '--listen-client-urls', hosts,
        '--advertise-client-urls', hosts, '--log-level', 'warn'], { stdio: ['ignore', 'ignore', 'inherit'] });
    for (let i = 0; i < 400; i++) {
        const s = net.connect(Number(PORT), '127.0.0.1');
        const up = await Promise.race([once(s, 'connect').then(() => true), once(s, 'error').then(() => false)]).catch(() => false);
        s.destroy();
        if (up) return;
        await sleep(50);
    }
    throw new Error('kfarm store does not listen');
}
async function stop(signal) {
    server.kill(signal);
    await once(server, 'exit');
}
async function until(fn, what) {
    for (let i = 0; i < 300; i++) {
        if (await fn()) return;
        await sleep(50);
    }
    throw new Error(`not within 15 s: ${what}`);
}

let n = 0, bad = 0, client;
async function test(name, fn) {
    client = new Etcd3({ hosts });
    try {
        await fn();
        console.log(`ok ${++n} ${name}`);
    } catch (e) {
        bad++;
        console.log(`not ok ${++n} ${name}\n# ${String(e.stack).replaceAll('\n', '\n# ')}`);
    }
    await client.delete().all().catch(() => {});
    client.close();
}

await start();

await test('keys: get, put, delete, every form of answer', async () => {
    await client.put('a').value('1');
    await client.put('b').value(Buffer.from([0, 255]));
    assert.equal(await client.get('a').string(), '1');
    assert.equal(await client.get('a').number(), 1);
    assert.deepEqual(await client.get('b').buffer(), Buffer.from([0, 255]));
    assert.equal(await client.get('none'), null);
    assert.equal(await client.get('a').exists(), true);
    await client.put('j').value(JSON.stringify({ x: [1] }));
    assert.deepEqual(await client.get('j').json(), { x: [1] });
    assert.equal((await client.put('a').value('2').getPrevious()).value.toString(), '1');
    await client.put('a').value('ignored').ignoreLease();
    assert.equal((await client.put('a').touch()).prev_kv, null);
    const kv = (await client.get('a').exec()).kvs[0];
    assert.equal(kv.version, '4');
    assert.equal(await client.get('a').revision(Number(kv.create_revision)).string(), '1');
    assert.equal((await client.delete().key('a').getPrevious())[0].value.toString(), 'ignored');
    assert.equal((await client.delete().key('a')).deleted, '0');
});

await test('ranges: prefix, interval, sort, limit, keys, count, bounds of revisions', async () => {
    for (const k of ['p/1', 'p/2', 'p/3', 'q']) await client.put(k).value(`v${k}`);
    assert.deepEqual(await client.getAll().prefix('p/').strings(), { 'p/1': 'vp/1', 'p/2': 'vp/2', 'p/3': 'vp/3' });
    assert.deepEqual(await client.getAll().prefix('p/').keys(), ['p/1', 'p/2', 'p/3']);
    assert.equal(await client.getAll().inRange({ start: 'p/2', end: 'q' }).count(), 2);
    assert.deepEqual(await client.getAll().prefix('p/').sort('Key', 'Descend').limit(2).keys(), ['p/3', 'p/2']);
    assert.deepEqual(await client.getAll().sort('Mod', 'Descend').limit(1).keys(), ['q']);
    assert.equal((await client.getAll().all().exec()).count, '4');
    const rev = Number((await client.get('p/2').exec()).kvs[0].mod_revision);
    assert.deepEqual(await client.getAll().prefix('p/').minModRevision(rev).keys(), ['p/2', 'p/3']);
    assert.equal((await client.delete().prefix('p/')).deleted, '3');
    assert.deepEqual(await client.getAll().keys(), ['q']);
});

await test('transactions: if, then, else', async () => {
    await client.put('t').value('1');
    let r = await client.if('t', 'Value', '==', '1').then(client.put('t').value('2')).else(client.get('t')).commit();
    assert.equal(r.succeeded, true);
    r = await client.if('t', 'Version', '>', 9).and('t', 'Create', '!=', 0).then(client.delete().key('t'))
        .else(client.get('t'), client.put('e').value('else')).commit();
    assert.equal(r.succeeded, false);
    assert.equal(r.responses[0].response_range.kvs[0].value.toString(), '2');
    assert.equal(await client.get('e').string(), 'else');
});

await test('software transactional memory: conflicts are tried again', async () => {
    await client.put('n').value(0);
    await Promise.all([...Array(8)].map(() => client.stm({ retries: 50 }).transact(async tx => {
        await tx.put('n').value(await tx.get('n').number() + 1);
    })));
    assert.equal(await client.get('n').number(), 8);
    await client.stm({ isolation: 1 /* serializable, without checks of writes */ }).transact(async tx => tx.delete().key('n'));
    assert.equal(await client.get('n'), null);
});

await test('leases: grant, put, keep alive, revoke, lost', async () => {
    const lease = client.lease(2);
    const id = await lease.grant();
    await lease.put('l').value('x');
    assert.equal((await client.get('l').exec()).kvs[0].lease, id);
    await sleep(3500); // longer than it lives: the package keeps it alive
    assert.equal(await client.get('l').string(), 'x');
    assert.equal((await client.leaseClient.leaseTimeToLive({ ID: id, keys: true })).keys[0].toString(), 'l');
    await lease.revoke();
    assert.equal(await client.get('l'), null);
    const other = client.lease(5, { autoKeepAlive: false });
    await other.put('m').value('y');
    const lost = once(other, 'lost');
    await client.leaseClient.leaseRevoke({ ID: await other.grant() });
    await other.keepaliveOnce().catch(() => {});
    await Promise.race([lost, sleep(10000).then(() => { throw new Error('the loss is not told'); })]);
});

await test('locks: one holder, the others are told or wait', async () => {
    const lock = client.lock('resource').ttl(5);
    await lock.acquire();
    await assert.rejects(client.lock('resource').acquire(), EtcdLockFailedError);
    await lock.release();
    let inside = 0;
    await client.lock('resource').do(async () => { inside++; });
    assert.equal(inside, 1);
});

await test('elections: campaign, proclaim, observe, resign', async () => {
    const election = client.election('chief', 5);
    const first = election.campaign('one');
    await once(first, 'elected');
    const observer = await client.election('chief', 5).observe();
    await until(() => observer.leader() === 'one', 'the first leader is seen');
    await first.proclaim('uno');
    await until(() => observer.leader() === 'uno', 'the new value is seen');
    const second = client.election('chief', 5).campaign('two');
    const elected = once(second, 'elected');
    await first.resign();
    await elected;
    await until(() => observer.leader() === 'two', 'the second leader is seen');
    await second.resign();
    await observer.cancel();
});

await test('watchers: events, previous values, filters, past revisions, a restart of the server', async () => {
    const seen = [];
    const watcher = await client.watch().prefix('w/').withPreviousKV().create();
    watcher.on('put', (kv, prev) => seen.push(`${kv.key}=${kv.value}${prev ? ` was ${prev.value}` : ''}`));
    watcher.on('delete', (kv, prev) => seen.push(`-${kv.key} was ${prev.value}`));
    const rev = Number((await client.put('w/a').value('1')).header.revision);
    await client.put('w/a').value('2');
    await client.delete().key('w/a');
    await until(() => seen.length === 3, 'three events');
    assert.deepEqual(seen, ['w/a=1', 'w/a=2 was 1', '-w/a was 2']);
    const past = [];
    // What is past may come at once behind the answer, so the listener is there before. No filters: version 1.1.2 takes
    // ignore() for only().
    const old = client.watch().key('w/a').startRevision(String(rev)).watcher();
    old.on('put', kv => past.push(kv.value.toString()));
    await until(() => past.length === 2, 'the past');
    await old.cancel();
    const back = once(watcher, 'connected');
    await stop('SIGKILL');
    await start();
    await back;
    await client.put('w/b').value('after');
    await until(() => seen.length === 4, 'an event after the restart');
    assert.equal(seen[3], 'w/b=after');
    await watcher.cancel();
});

await test('namespaces', async () => {
    const ns = client.namespace('user/');
    await ns.put('k').value('v');
    assert.equal(await client.get('user/k').string(), 'v');
    assert.deepEqual(await ns.getAll().keys(), ['k']);
    await ns.delete().all();
    assert.equal(await client.get('user/k'), null);
});

await test('policies: calls are tried again while the server is away', async () => {
    const { handleAll, retry, ConstantBackoff } = await import('cockatiel');
    const patient = new Etcd3({ hosts, faultHandling: { global: retry(handleAll, { maxAttempts: 200, backoff: new ConstantBackoff(50) }) } });
    await patient.put('before').value('1');
    await stop('SIGTERM');
    const answer = patient.get('before').string();
    await sleep(300);
    await start();
    assert.equal(await answer, '1');
    patient.close();
});

await test('maintenance and cluster', async () => {
    assert.match((await client.maintenance.status()).version, /^3\.5\./);
    assert.equal((await client.cluster.memberList({})).members.length, 1);
    await client.put('c').value('1');
    const rev = (await client.put('c').value('2')).header.revision;
    await client.kv.compact({ revision: rev, physical: true });
    await assert.rejects(client.get('c').revision(Number(rev) - 1).string(), /required revision has been compacted/);
    let bytes = 0;
    const stream = await client.maintenance.snapshot();
    stream.on('data', part => { bytes += part.blob.length; });
    await once(stream, 'end');
    assert.ok(bytes > 4096);
});

await test('users, roles and permissions', async () => {
    const role = client.role('reader'), root = client.role('root');
    await role.create();
    await root.create();
    await role.grant({ permission: 'Read', range: client.range({ prefix: 'open/' }) });
    assert.equal((await role.permissions()).length, 1);
    const user = client.user('ann');
    await user.create('secret');
    await user.addRole('reader');
    assert.deepEqual((await user.roles()).map(r => r.name), ['reader']);
    await client.user('root').create('rootpw');
    await client.user('root').addRole(root);
    await client.put('open/a').value('1');
    await client.put('shut').value('2');
    await client.auth.authEnable();
    const ann = new Etcd3({ hosts, auth: { username: 'ann', password: 'secret' } });
    const admin = new Etcd3({ hosts, auth: { username: 'root', password: 'rootpw' } });
    try {
        assert.equal(await ann.get('open/a').string(), '1');
        await assert.rejects(ann.get('shut').string(), EtcdPermissionDeniedError);
        await assert.rejects(ann.put('open/a').value('x'), EtcdPermissionDeniedError);
        const wrong = new Etcd3({ hosts, auth: { username: 'ann', password: 'no' } });
        await assert.rejects(wrong.get('open/a').string(), EtcdAuthenticationFailedError);
        wrong.close();
        assert.deepEqual((await admin.getUsers()).map(u => u.name).sort(), ['ann', 'root']);
        assert.deepEqual((await admin.getRoles()).map(r => r.name).sort(), ['reader', 'root']);
        await admin.role('reader').revoke({ permission: 'Read', range: admin.range({ prefix: 'open/' }) });
        await assert.rejects(ann.get('open/a').string(), EtcdPermissionDeniedError);
    } finally {
        await admin.auth.authDisable();
        ann.close();
        admin.close();
    }
    await user.delete();
    await role.delete();
});

console.log(`1..${n}`);
await stop('SIGTERM');
process.exit(bad ? 1 : 0);
