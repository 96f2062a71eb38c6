// Two real authorization servers: `node issuer.mjs PORT OTHER_PORT RESOURCE`. Users log in and consent by themselves.
// Both sign with the same keys, so that a token of the other one is wrong by its issuer alone.
import { Provider } from 'oidc-provider';

const [port, otherPort, resource] = process.argv.slice(2);
const SCOPES = 'orders:read orders:write';
const key = await crypto.subtle.generateKey(
  { name: 'RSASSA-PKCS1-v1_5', modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]), hash: 'SHA-256' },
  true,
  ['sign', 'verify'],
);
const jwk = { ...(await crypto.subtle.exportKey('jwk', key.privateKey)), kid: 'k1', use: 'sig', alg: 'RS256' };
delete jwk.key_ops;
delete jwk.ext;

const machine = (id) => ({
  client_id: id,
  client_secret: `${id}-secret`,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
});

function serve(port) {
  const issuer = `http://127.0.0.1:${port}`;
  const provider = new Provider(issuer, {
    jwks: { keys: [jwk] },
    clients: [machine('machine'), machine('short'), machine('resource-server')],
    scopes: ['openid', 'offline_access'],
    pkce: { required: () => true },
    cookies: { keys: ['not a secret'] },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
    features: {
      devInteractions: { enabled: false },
      registration: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, indicator, client) => ({
          scope: SCOPES,
          audience: indicator,
          accessTokenTTL: client.clientId === 'short' ? 1 : 600,
          accessTokenFormat: indicator.endsWith('/opaque') ? 'opaque' : 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
  provider.use(async (ctx, next) => {
    if (!ctx.path.startsWith('/interaction/')) return next();
    const { prompt, params, grantId } = await provider.interactionDetails(ctx.req, ctx.res);
    let result = { login: { accountId: 'ann' } };
    if (prompt.name === 'consent') {
      const grant = (grantId && (await provider.Grant.find(grantId))) ?? new provider.Grant({ accountId: 'ann', clientId: params.client_id });
      grant.addOIDCScope('openid offline_access');
      grant.addResourceScope(params.resource, params.scope ?? '');
      result = { consent: { grantId: await grant.save() } };
    }
    await provider.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: true });
    ctx.respond = false;
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  return new Promise((ready) => provider.listen(Number(port), '127.0.0.1', ready));
}

await serve(port);
await serve(otherPort);
console.error('ready');
