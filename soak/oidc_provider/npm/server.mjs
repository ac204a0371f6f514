// The authorization server of `python -m soak.oidc_provider`: npm's oidc-provider, strict.
//
// Every renewal rotates the refresh token, its second use ends the grant, no leeway, no tolerance of clocks. Sign-in and
// consent are the package's own development pages. The first line of standard input is the settings, each further one a
// command; what happens is told on standard output, one JSON document a line. No token and no code is ever told.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import Provider from 'oidc-provider';

console.info = console.error; // the package's remarks; standard output is ours
const tell = (event, members = {}) => process.stdout.write(`${JSON.stringify({ event, at: Date.now() / 1000, ...members })}\n`);

// The package's own memory forgets what was used least after 1000 entries, grants among them.
const kept = new Map();
const owners = new Map(); // of refresh tokens, those that have ended too
const now = () => Date.now() / 1000;

class Adapter {
  constructor(model) { this.model = model; }

  key(id) { return `${this.model}:${id}`; }

  async upsert(id, payload, expiresIn) {
    if (this.model === 'RefreshToken') owners.set(id, payload.accountId);
    kept.set(this.key(id), { payload, until: expiresIn ? now() + expiresIn : Infinity });
  }

  async find(id) {
    const found = kept.get(this.key(id));
    return found && found.until > now() ? found.payload : undefined;
  }

  async findByUid(uid) {
    for (const [key, { payload }] of kept) {
      if (key.startsWith(`${this.model}:`) && payload.uid === uid) return payload;
    }
    return undefined;
  }

  async consume(id) { kept.get(this.key(id)).payload.consumed = Math.floor(now()); }

  async destroy(id) { kept.delete(this.key(id)); }

  async revokeByGrantId(grantId) { forget(`${this.model}:`, grantId); }
}

function forget(prefix, grantId) {
  for (const [key, { payload }] of kept) {
    if (key.startsWith(prefix) && payload.grantId === grantId) kept.delete(key);
  }
}

setInterval(() => {
  for (const [key, { until }] of kept) if (until < now()) kept.delete(key);
}, 5000).unref();

function configuration({ client, api, resources, life, publicUrl }) {
  const ours = new Map(Object.entries(resources));
  return {
    adapter: Adapter,
    clients: [
      {
        client_id: client.id,
        client_secret: client.secret,
        grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
        response_types: ['code'],
        redirect_uris: [`${publicUrl}/oauth2/callback`],
        post_logout_redirect_uris: [publicUrl, `${publicUrl}/`],
        backchannel_logout_uri: `${publicUrl}/oauth2/backchannel-logout`,
        backchannel_logout_session_required: true,
        require_pushed_authorization_requests: true,
      },
      { client_id: api.id, client_secret: api.secret, grant_types: [], response_types: [], redirect_uris: [] },
    ],
    clockTolerance: 0,
    cookies: { keys: [client.secret] },
    features: {
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // what the authorization request does not name is not granted, and never renewed for
        defaultResource: () => undefined,
        getResourceServerInfo: (_ctx, name) => {
          const { scope, format } = ours.get(name);
          return {
            scope, audience: name, accessTokenFormat: format, accessTokenTTL: life,
            ...(format === 'jwt' ? { jwt: { sign: { alg: 'RS256' } } } : {}),
          };
        },
      },
    },
    // its guard against requests to private addresses would keep it from a relying party on loopback
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    findAccount: (_ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
    pkce: { required: () => true },
    rotateRefreshToken: () => true,
    ttl: { AccessToken: life, ClientCredentials: life, Grant: 86400, IdToken: 3600, Interaction: 600, RefreshToken: 86400, Session: 86400 },
  };
}

const account = (ctx) => ctx.oidc?.entities.RefreshToken?.accountId ?? ctx.oidc?.entities.Account?.accountId
  ?? owners.get(ctx.oidc?.params?.refresh_token) ?? '';

function watch(provider) {
  const token = (ctx, error = '') => tell('token', {
    grant: ctx.oidc.params?.grant_type, subject: account(ctx), resource: ctx.oidc.params?.resource ?? '', error,
  });
  provider.on('grant.success', (ctx) => token(ctx));
  provider.on('grant.error', (ctx, error) => token(ctx, `${error.error}: ${error.error_detail ?? error.error_description}`));
  provider.on('authorization.success', (ctx) => tell('authorization', { subject: account(ctx) }));
  provider.on('pushed_authorization_request.success', () => tell('pushed'));
  provider.on('backchannel.success', (_ctx, _client, subject) => tell('backchannel', { subject, error: '', late: false }));
  provider.on('backchannel.error', (_ctx, error, _client, subject) => tell('backchannel', {
    subject, error: error.message, late: error.name === 'TimeoutError', // it waits for 2.5 s
  }));
  provider.on('server_error', (_ctx, error) => tell('server_error', { error: error.message }));
  for (const name of ['authorization.error', 'introspection.error', 'revocation.error', 'end_session.error', 'pushed_authorization_request.error']) {
    provider.on(name, (_ctx, error) => tell('refused', { endpoint: name, error: `${error.error}: ${error.error_description}` }));
  }
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === 'revocation') tell('revocation', { status: ctx.status, subject: account(ctx) });
  });
}

const commands = {
  // what an administrator does who throws a user out: every grant ends at once, the relying party is not told
  revoke: ({ subject }) => {
    for (const [key, { payload }] of kept) {
      if (key.startsWith('Grant:') && payload.accountId === subject) {
        kept.delete(key);
        forget('', payload.jti);
      }
    }
    tell('revoked', { subject });
  },
};

const lines = createInterface({ input: process.stdin });
lines.on('close', () => process.exit(0));
lines.once('line', (first) => {
  const settings = JSON.parse(first);
  const server = createServer();
  server.listen(0, '127.0.0.1', () => {
    const issuer = `http://127.0.0.1:${server.address().port}`;
    const provider = new Provider(issuer, configuration(settings));
    watch(provider);
    server.on('request', provider.callback());
    tell('listening', { issuer });
  });
  lines.on('line', (line) => {
    const { command, ...members } = JSON.parse(line);
    commands[command](members);
  });
});
