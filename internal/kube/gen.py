#!/usr/bin/env python3
"""Writes the constant tables of internal/kube from data/*: gen.py OUT.c"""
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
META = 'apimachinery.pkg.apis.meta.v1.'


def rows(name):
    with open(os.path.join(HERE, 'data', name)) as f:
        return [line.rstrip('\n') for line in f if line.strip() and line[0] != '#']


class Pool:
    """NUL-terminated strings in one array; offset 0 is the empty string."""

    def __init__(self, name):
        self.name, self.at, self.list, self.n = name, {'': 0}, [''], 1

    def add(self, s):
        if s not in self.at:
            self.at[s] = self.n
            self.list.append(s)
            self.n += len(s.encode()) + 1
            assert self.n < 65536, self.name + ' pool is full'
        return self.at[s]

    def write(self, o):
        o.write('const char %s[] =\n' % self.name)
        for s in self.list:
            o.write('    %s "\\0"\n' % quote(s))
        o.write('    ;\n\n')


def quote(s):
    return '"' + s.replace('\\', '\\\\').replace('"', '\\"') + '"'


BASE = {'string': 'STRING', 'bytes': 'BYTES', 'boolean': 'BOOL', 'int32': 'INT32', 'int64': 'INT64', 'double': 'DOUBLE',
        'Quantity': 'QUANTITY', 'Time': 'TIME', 'MicroTime': 'MICROTIME', 'Duration': 'DURATION',
        'IntOrString': 'INTSTR', 'RawExtension': 'RAW', 'object': 'RAW', 'FieldsV1': 'FIELDS', 'JSON': 'ANY',
        'any': 'ANY', 'JSONSchemaPropsOrArray': 'SCHEMA_OR_ARRAY', 'JSONSchemaPropsOrBool': 'SCHEMA_OR_BOOL',
        'JSONSchemaPropsOrStringArray': 'SCHEMA_OR_STRINGS'}
SHAPE = {'': 'ONE', '[]': 'LIST', 'map:': 'MAP', 'map:[]': 'MAP_LIST'}
PRESENCE = {'p': 'PTR', 'v': 'OMIT', 'r': 'ZERO', 'V': 'STRUCT', 'z': 'OMIT', 'n': 'NULLABLE', 'k': 'KEEP', 'i': 'INLINE'}
LIST = {'-': 'NONE', 'a': 'ATOMIC', 's': 'SET', 'm': 'MAP', 'g': 'GRANULAR'}


class Field:
    def __init__(self, name, pb, typ, presence, lst='-', keys='-', strategy='-', mkey='-', default='', rule='', desc=''):
        self.name, self.pb, self.default, self.rule, self.desc = name, int(pb), default, rule, desc
        m = re.match(r'((?:map:|\[\])*)(.*)$', typ)
        self.shape, self.base = SHAPE[m.group(1)], m.group(2)
        self.required = presence.endswith('!')
        self.presence = PRESENCE[presence.rstrip('!')]
        self.list = LIST[lst]
        self.keys = '' if keys == '-' else keys
        self.mkey = '' if mkey == '-' else mkey
        self.strategy = strategy


def read_types():
    types, cur = {}, None
    for line in rows('types.tsv'):
        c = line.split('\t')
        if c[0] == 'T':
            cur = types.setdefault(c[1], {'fields': [], 'desc': ''})
        else:
            cur['fields'].append(Field(*c))
    # Objects that travel alone but whose message has no type fields.
    for k in ('PartialObjectMetadata', 'PartialObjectMetadataList'):
        for n in ('apiVersion', 'kind'):
            types[META + k]['fields'].append(Field(n, 0, 'string', 'v'))
    return types


def read_farm(types, kinds, resources):
    cur = pkg = None
    for line in rows('kfarm.txt'):
        head, _, desc = line.partition(' : ')
        w = head.split()
        if w[0] == 'K':
            group, version, kind, plural, singular, short, scope = w[1:8]
            resources.append([group, version, plural, kind, scope, singular,
                              'create,delete,deletecollection,get,list,patch,update,watch', short, 'kfarm'])
            for sub in w[8:]:
                resources.append([group, version, plural + '/' + sub, kind, scope, '', 'get,patch,update', '', ''])
            kinds.append([group, version, kind, None])
            kinds.append([group, version, kind + 'List', None])
        elif w[0] == 'T':
            cur = types[w[1]] = {'fields': [], 'desc': desc}
            pkg = w[1].rpartition('.')[0]
            for k in kinds:
                if k[3] is None and k[2] == w[1].rpartition('.')[2]:
                    k[3] = w[1]
        else:
            name, typ, opts = w[0], w[1], w[2:]
            m = re.match(r'((?:map:|\[\])*)(.*)$', typ)
            base = m.group(2)
            if base == '.ObjectMeta':
                base = META + 'ObjectMeta'
            elif base not in BASE and '.' not in base:
                base = pkg + '.' + base
            f = Field(name, 0, m.group(1) + base, 'v' if m.group(1) else 'p', desc=desc)
            if name == 'metadata':
                f.presence = 'STRUCT'
            for o in opts:
                if o == '!':
                    f.required = True
                elif o in ('set', 'atomic'):
                    f.list = o.upper()
                elif o.startswith('key='):
                    f.list, f.keys = 'MAP', o[4:]
                elif o.startswith('rule='):
                    f.rule = o[5:]
                elif o.startswith('='):
                    f.default = o[1:]
                else:
                    sys.exit('kfarm.txt: unknown flag %s in %s' % (o, line))
            cur['fields'].append(f)
    for k in [k for k in kinds if k[3] is None]:
        item = next(x[3] for x in kinds if x[0] == k[0] and x[2] == k[2][:-4])
        k[3] = item + 'List'
        types[k[3]] = {'desc': '%s is a list of %s objects.' % (k[2], k[2][:-4]), 'fields': [
            Field('apiVersion', 0, 'string', 'v'), Field('kind', 0, 'string', 'v'),
            Field('metadata', 0, META + 'ListMeta', 'V'), Field('items', 0, '[]' + item, 'k!')]}


def read_defaults(types):
    for line in rows('defaults.tsv'):
        typ, field, value = line.split('\t')
        f = [f for f in types[typ]['fields'] if f.name == field]
        assert f, line
        f[0].default = value


def read_columns():
    cols, cur = {}, None
    for line in rows('columns.tsv'):
        c = line.split('\t')
        if c[0] == 'R':
            cur = cols.setdefault(('' if c[1] == '-' else c[1], c[2]), [])
        else:
            cur.append((c[0], c[1], '' if c[2] == '-' else c[2], c[3], c[4]))
    cols[('events.k8s.io', 'events')] = cols[('', 'events')]
    return cols


# Structs that server-side apply owns as a whole (x-kubernetes-map-type: atomic).
ATOMIC = {META + 'LabelSelector', 'api.rbac.v1.RoleRef', 'api.rbac.v1.Subject', 'api.admissionregistration.v1.MatchResources',
          'api.admissionregistration.v1.ParamRef', 'api.admissionregistration.v1.ParamKind',
          'api.admissionregistration.v1.NamedRuleWithOperations', 'api.networking.v1.ServiceBackendPort',
          'api.discovery.v1.EndpointPort', 'api.storage.v1.VolumeNodeResources'} | {
              'api.core.v1.' + k for k in (
                  'ObjectReference', 'ObjectFieldSelector', 'ResourceFieldSelector', 'LocalObjectReference',
                  'TypedLocalObjectReference', 'SecretKeySelector', 'ConfigMapKeySelector', 'FileKeySelector', 'NodeSelector',
                  'NodeSelectorTerm', 'TopologySelectorTerm', 'SecretReference', 'ScopeSelector',
                  'ScopedResourceSelectorRequirement', 'EndpointAddress', 'EndpointPort')}

COMMON = {'apiVersion': 'Version of the schema of this object, as group/version.',
          'kind': 'Name of the kind of this object.',
          'metadata': 'Standard metadata: name, namespace, labels, annotations and what the server keeps about the object.',
          'spec': 'The wished state.',
          'status': 'The state last seen, written by the system.',
          'items': 'The objects of the list.'}


def main(out):
    types, kinds, resources = read_types(), [], []
    for line in rows('kinds.tsv'):
        c = line.split('\t')
        kinds.append(['' if c[0] == '-' else c[0], c[1], c[2], c[3]])
    for line in rows('resources.tsv'):
        c = line.split('\t')
        c[0] = '' if c[0] == '-' else c[0]
        resources.append(c)
    n_upstream = len(resources)
    read_farm(types, kinds, resources)
    read_defaults(types)
    top = {k[3] for k in kinds}
    with open(os.path.join(HERE, 'kube_int.h')) as f:
        hooks = {t: i + 1 for i, (n, t) in enumerate(re.findall(r'\bX\((\w+), "([^"]+)"\)', f.read()))}
    for t in hooks:
        assert t in types, 'hook for unknown type ' + t

    names = sorted(types)
    index = {n: i for i, n in enumerate(names)}
    # Which types hold a default or a hook somewhere below them.
    deep = {n for n in names if n in hooks or any(f.default or f.presence in ('ZERO', 'STRUCT', 'NULLABLE')
                                                 for f in types[n]['fields'])}
    grew = True
    while grew:
        grew = False
        for n in names:
            if n not in deep and any(f.base in deep for f in types[n]['fields']):
                deep.add(n)
                grew = True

    strs, descs = Pool('kube_gen_str'), Pool('kube_gen_desc')
    flines, tlines, first = [], [], 0
    for n in names:
        t = types[n]
        fields = sorted(t['fields'], key=lambda f: f.name)
        order = sorted(range(len(fields)), key=lambda i: (fields[i].pb, i))
        tf = []
        if n in deep:
            tf.append('KT_DEFAULTS')
        if n in ATOMIC:
            tf.append('KT_ATOMIC')
        if any(f.pb for f in fields) or (not fields and not n.startswith(('dev.', 'io.'))):
            tf.append('KT_PB')
        pkg, _, short = n.rpartition('.')
        tlines.append('    {%d, %d, %d, %d, %d, %d, %s},' % (
            strs.add(short), strs.add(pkg), first, descs.add(t['desc']), len(fields), hooks.get(n, 0),
            ' | '.join(tf) or '0'))
        for i, f in enumerate(fields):
            ff = ['KF_REQUIRED'] if f.required else []
            for c, flag in (('m', 'KF_MERGE'), ('r', 'KF_RETAIN'), ('x', 'KF_REPLACE')):
                if c in f.strategy:
                    ff.append(flag)
            desc = f.desc or (COMMON.get(f.name, '') if n in top else '')
            base = BASE.get(f.base, 'OBJECT')
            typ = index[f.base] if base == 'OBJECT' else 0
            if base in ('SCHEMA_OR_ARRAY', 'SCHEMA_OR_BOOL', 'SCHEMA_OR_STRINGS'):
                typ = index['apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps']
            flines.append('    {%d, %d, %d, %d, %d, %d, %d, %d, KB_%s, KS_%s, KP_%s, KL_%s, %s, %d},' % (
                strs.add(f.name), typ, f.pb, strs.add(f.keys), strs.add(f.mkey), strs.add(f.default),
                strs.add(f.rule), descs.add(desc), base, f.shape, f.presence, f.list,
                ' | '.join(ff) or '0', order[i]))
        first += len(fields)
    assert first < 65536

    kind_type = {(k[0], k[1], k[2]): k[3] for k in kinds}
    groups = {}
    for i, c in enumerate(resources):
        g = groups.setdefault(c[0], ([], 'KUBE_SET_UPSTREAM | KUBE_SET_FARM' if i < n_upstream else 'KUBE_SET_FARM'))
        if c[1] not in g[0]:
            g[0].append(c[1])

    with open(out, 'w') as o:
        o.write('/* Made by internal/kube/gen.py from internal/kube/data; do not edit. */\n'
                '#include "internal/kube/kube_int.h"\n\n')
        strs.write(o)
        descs.write(o)
        o.write('const struct kube_type kube_gen_types[] = {\n%s\n};\nconst size_t kube_gen_n_types = %d;\n\n' %
                ('\n'.join(tlines), len(names)))
        o.write('const struct kube_field kube_gen_fields[] = {\n%s\n};\n\n' % '\n'.join(flines))
        o.write('const struct kube_kind kube_gen_kinds[] = {\n')
        for k in kinds:
            o.write('    {%s, %s, %s, %d},\n' % (quote(k[0]), quote(k[1]), quote(k[2]), index[k[3]]))
        o.write('};\nconst size_t kube_gen_n_kinds = %d;\n\n' % len(kinds))
        o.write('const struct kube_group kube_gen_groups[] = {\n')
        for g, (versions, sets) in groups.items():
            o.write('    {%s, {%s}, %s},\n' % (quote(g), ', '.join(quote(v) for v in versions), sets))
        o.write('};\nconst size_t kube_gen_n_groups = %d;\n\n' % len(groups))
        columns, at = read_columns(), 0
        place = {}
        o.write('const struct kube_column kube_gen_columns[] = {\n')
        for key, cols in columns.items():
            place[key] = (at, len(cols))
            at += len(cols)
            for c in cols:
                o.write('    {%s, %s, %s, %s, %s},\n' % (quote(c[0]), quote(c[1]), quote(c[2]), quote(c[4]), c[3]))
        o.write('};\n\n')
        o.write('const struct kube_resource kube_gen_resources[] = {\n')
        for i, (g, v, res, kind, scope, singular, verbs, short, cats) in enumerate(resources):
            name, _, sub = res.partition('/')
            bg, bv = g, v
            if '/' in kind:
                bg, bv, kind = kind.split('/')
            elif kind == 'Scale':
                bg, bv = 'autoscaling', 'v1'
            elif kind == 'TokenRequest':
                bg, bv = 'authentication.k8s.io', 'v1'
            elif kind == 'Eviction':
                bg, bv = 'policy', 'v1'
            t, lt = kind_type.get((bg, bv, kind)), kind_type.get((bg, bv, kind + 'List'))
            stored = not (g == 'events.k8s.io' or (g == 'autoscaling' and v == 'v1'))
            o.write('    {%s},\n' % ', '.join([quote(x) for x in (g, v, name, sub, kind, bg, bv, singular, short, cats)] + [
                '&kube_gen_types[%d]' % index[t] if t else 'NULL',
                '&kube_gen_types[%d]' % index[lt] if lt and not sub else 'NULL',
                ' | '.join('KUBE_V_' + x.upper() for x in verbs.split(',') if x) or '0',
                'KUBE_SET_UPSTREAM | KUBE_SET_FARM' if i < n_upstream else 'KUBE_SET_FARM',
                'true' if scope == 'Namespaced' else 'false', 'true' if stored else 'false',
                *[str(x) for x in place.get((g, name), (0, 0))]]))
        o.write('};\nconst size_t kube_gen_n_resources = %d;\n' % len(resources))


if __name__ == '__main__':
    main(sys.argv[1])
