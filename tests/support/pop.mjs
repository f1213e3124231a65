// A point of presence of CloudFront, as far as a switch needs one: it runs the function that is published at the
// emulator, with the keys that have reached it, and asks the origin that the two choose. What is written at the
// emulator reaches it only while it propagates.
//
// Arguments: address and port, the emulator's URL, the distribution's ID, the ARN of the key value store or '',
// and a file that stops the propagation while it is there.
import http from 'node:http';
import fs from 'node:fs';
import { Buffer } from 'node:buffer';

const [address, port, emulator, id, arn, frozen] = process.argv.slice(2);
const authorization = (service) =>
    `AWS4-HMAC-SHA256 Credential=pop/20260101/us-east-1/${service}/aws4_request, SignedHeaders=host, Signature=0`;
const AT = '/2020-05-31';
let here = null;

async function read(path, service) {
    const answer = await fetch(emulator + path, { headers: { authorization: authorization(service) } });
    return answer.ok ? await answer.text() : null;
}

const text = (xml, name) => new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml ?? '')?.[1];
const all = (xml, name) => (xml ?? '').match(new RegExp(`<${name}>[\\s\\S]*?</${name}>`, 'g')) ?? [];

async function propagate() {
    if (fs.existsSync(frozen)) return;
    const config = await read(`${AT}/distribution/${id}/config`, 'cloudfront');
    if (config === null) return;
    const behaviour = all(config, 'DefaultCacheBehavior')[0];
    const origins = {};
    for (const origin of all(all(config, 'Origins')[0], 'Origin')) {
        const headers = {};
        for (const header of all(origin, 'OriginCustomHeader')) {
            headers[text(header, 'HeaderName').toLowerCase()] = text(header, 'HeaderValue');
        }
        origins[text(origin, 'Id')] = { domain: text(origin, 'DomainName'), port: Number(text(origin, 'HTTPPort')), headers };
    }
    const name = text(all(behaviour, 'FunctionAssociation')[0], 'FunctionARN')?.split('/').pop();
    const code = name ? await read(`${AT}/function/${name}?Stage=LIVE`, 'cloudfront') : null;
    const keys = {};
    if (arn) {
        const items = await read(`/key-value-stores/${encodeURIComponent(arn)}/keys?MaxResults=50`, 'cloudfront-keyvaluestore');
        for (const { Key, Value } of JSON.parse(items ?? '{"Items":[]}').Items) keys[Key] = Value;
    }
    here = { target: origins[text(behaviour, 'TargetOriginId')], code, keys };
}

// As a function's runtime gives it.
function runtime(seen, origin) {
    return {
        kvs: () => ({
            get: async (key, { format }) => {
                if (!(key in seen.keys)) throw new Error('KeyNotFound');
                return format === 'json' ? JSON.parse(seen.keys[key]) : seen.keys[key];
            },
        }),
        updateRequestOrigin: (change) => {
            origin.domain = change.domainName ?? origin.domain;
            origin.headers = change.customHeaders ?? origin.headers;
        },
    };
}

http.createServer(async (request, response) => {
    const seen = here;
    if (!seen?.target) {
        response.writeHead(503).end('nothing has reached this place yet');
        return;
    }
    const body = [];
    for await (const part of request) body.push(part);
    const origin = { ...seen.target };
    try {
        if (seen.code) {
            const code = seen.code.replace(/^import cf from 'cloudfront';$/m, '');
            const handler = new Function('cf', `${code}; return handler;`)(runtime(seen, origin));
            await handler({ request: { method: request.method, uri: request.url, headers: {} } });
        }
    } catch (error) {
        response.writeHead(503).end(`the function failed: ${error}`);
        return;
    }
    const headers = { ...request.headers, connection: 'close' };
    delete headers['transfer-encoding'];
    delete headers['x-understudy-epoch'];
    if (body.length) headers['content-length'] = Buffer.concat(body).length;
    Object.assign(headers, origin.headers);
    const options = { host: origin.domain, port: origin.port, method: request.method, path: request.url, headers, agent: false };
    const asked = http.request(options, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
        answer.on('error', () => response.destroy());
    });
    asked.on('error', () => {
        if (!response.headersSent) response.writeHead(502);
        response.end('the origin does not answer');
    });
    asked.setTimeout(15000, () => asked.destroy());
    asked.end(Buffer.concat(body));
}).listen(Number(port), address);

for (;;) {
    await propagate().catch(() => {});
    await new Promise((done) => setTimeout(done, 100));
}
