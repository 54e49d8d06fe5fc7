// The official TypeScript SDK drives a control plane: everything made, a turn
// streamed and listed, its worker in between. Prints one JSON line.
//   client.mjs BASE_URL API_KEY ENVIRONMENT_ID ENVIRONMENT_KEY WORKDIR
import Anthropic from '@anthropic-ai/sdk';
import { EnvironmentWorker } from '@anthropic-ai/sdk/lib/environments/worker';

const [baseURL, apiKey, environmentId, environmentKey, workdir] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey });

const agent = await client.beta.agents.create({
  name: 'player',
  model: 'scripted',
  tools: [{ type: 'agent_toolset_20260401' }],
});
const session = await client.beta.sessions.create({ agent: agent.id, environment_id: environmentId });

const stop = new AbortController();
const worker = new EnvironmentWorker({
  client: new Anthropic({ baseURL, apiKey: null, authToken: environmentKey }),
  environmentId,
  environmentKey,
  workdir,
  maxIdleMs: 1000,
});
const served = worker.run(stop.signal).catch((e) => {
  if (!stop.signal.aborted) throw e;
});

const stream = await client.beta.sessions.events.stream(session.id);
const script = { turns: [
  { text: 'I run it.', tools: [{ name: 'bash', input: { command: 'echo from typescript' } }] },
  { text: 'it said {{result 0}}' },
] };
await client.beta.sessions.events.send(session.id, {
  events: [{ type: 'user.message', content: [{ type: 'text', text: '```script\n' + JSON.stringify(script) + '\n```' }] }],
});
const streamed = new Set();
for await (const event of stream) {
  streamed.add(event.id);
  if (event.type === 'session.status_idle' && event.stop_reason.type !== 'requires_action') break;
}
const listed = [];
for await (const event of client.beta.sessions.events.list(session.id, { limit: 4 })) listed.push(event);
const stats = await client.beta.environments.work.stats(environmentId);
stop.abort();
await served;

console.log(JSON.stringify({
  missing: listed.filter((e) => !streamed.has(e.id)).map((e) => e.type),
  last: listed.filter((e) => e.type === 'agent.message').at(-1).content[0].text,
  stats: stats.type,
}));
process.exit(0);
