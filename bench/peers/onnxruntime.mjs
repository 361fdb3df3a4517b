// ONNX Runtime's decoding beside heed's: GroupQueryAttention on the CPU, one token against a cache of 8 bits or float.
//
//   npm install onnxruntime-node        (in any folder; nothing of heed needs it)
//   node <heed>/bench/peers/onnxruntime.mjs [keys,keys,...] [threads] [heads] [columns]      default 4096 1 12 64
//
// The package hands the whole cache over and back in every call. What that takes is measured too: the same call with 64
// tokens in a cache of the same size. Both take turns; printed are medians, the difference of the least, which is what
// the operator itself takes, and how far the answer of 8 bits is from float's.
import { createRequire } from 'node:module';
const ort = createRequire(process.cwd() + '/')('onnxruntime-node');  // of the folder it is run in

const [keys = '4096', threads = '1', heads = '12', columns = '64'] = process.argv.slice(2);
const n_heads = Number(heads), d = Number(columns);

// --- a model of one operator, as protocol buffers ------------------------------------------------------------------
const varint = (x) => (x < 128 ? [x] : [(x % 128) | 128, ...varint(Math.floor(x / 128))]);
const number = (field, x) => [...varint(field * 8), ...varint(x)];
const bytes = (field, body) => [...varint(field * 8 + 2), ...varint(body.length), ...body];
const text = (field, x) => bytes(field, [...Buffer.from(x)]);
const types = { float32: 1, int8: 3, int32: 6 };
const value = (field, name, type, shape) => {
  const sizes = shape.flatMap((size) => bytes(1, number(1, size)));
  return bytes(field, [...text(1, name), ...bytes(2, bytes(1, [...number(1, types[type]), ...bytes(2, sizes)]))]);
};
const attribute = (name, x) =>
  bytes(5, [...text(1, name), ...(typeof x === 'string' ? [...text(4, x), ...number(20, 3)]
                                                        : [...number(3, x), ...number(20, 2)])]);

function model_of(cache, n) {
  const type = cache === 'float' ? 'float32' : 'int8', row = [1, 1, n_heads * d], tokens = [1, n_heads, n, d];
  const inputs = [['query', 'float32', row], ['key', 'float32', row], ['value', 'float32', row],
                  ['past_key', type, tokens], ['past_value', type, tokens],
                  ['seqlens_k', 'int32', [1]], ['total', 'int32', [1]]];
  const names = inputs.map(([name]) => name);
  const attributes = [...attribute('num_heads', n_heads), ...attribute('kv_num_heads', n_heads)];
  if (cache === 'int8') {
    inputs.push(['k_scale', 'float32', [n_heads * d]], ['v_scale', 'float32', [n_heads * d]]);
    names.push('', '', '', '', '', 'k_scale', 'v_scale');
    attributes.push(...attribute('k_quant_type', 'PER_CHANNEL'), ...attribute('v_quant_type', 'PER_CHANNEL'),
                    ...attribute('kv_cache_bit_width', 8));
  }
  const outputs = [['out', 'float32', row], ['present_key', type, tokens], ['present_value', type, tokens]];
  const node = [...names.flatMap((name) => text(1, name)), ...outputs.flatMap(([name]) => text(2, name)),
                ...text(4, 'GroupQueryAttention'), ...attributes, ...text(7, 'com.microsoft')];
  const graph = [...bytes(1, node), ...text(2, 'decode'), ...inputs.flatMap((x) => value(11, ...x)),
                 ...outputs.flatMap((x) => value(12, ...x))];
  const opset = (domain, version) => bytes(8, [...text(1, domain), ...number(2, version)]);
  return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...opset('', 17), ...opset('com.microsoft', 1)]);
}

// --- operands: bell-shaped numbers, the same in both caches ---------------------------------------------------------
let state = 1;
const normal = () => {
  let sum = -3;
  for (let i = 0; i < 6; ++i) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    sum += state / 2 ** 32;
  }
  return sum * Math.SQRT2;
};
const randoms = (n) => Float32Array.from({ length: n }, normal);
const of_float = (x, shape) => new ort.Tensor('float32', x, shape);
const of_int = (x) => new ort.Tensor('int32', Int32Array.of(x), [1]);

const step = 4 / 127;
const cached = {
  float: (x, shape) => of_float(x.slice(), shape),
  int8: (x, shape) =>
    new ort.Tensor('int8', Int8Array.from(x, (y) => Math.max(-127, Math.min(127, Math.round(y / step)))), shape),
};

const session_options = { intraOpNumThreads: Number(threads), interOpNumThreads: 1, executionProviders: ['cpu'] };
const median = (times) => times.slice().sort((a, b) => a - b)[times.length >> 1];
const norm = (x) => Math.sqrt(x.reduce((sum, y) => sum + y * y, 0));

// Calls over n tokens, and over few tokens of a cache of the same size.
async function calls_of(cache, n, k, v, token) {
  const session = await ort.InferenceSession.create(model_of(cache, n), session_options);
  const row = [1, 1, n_heads * d], tokens = [1, n_heads, n, d];
  const past_key = cached[cache](k, tokens), past_value = cached[cache](v, tokens);
  const out = of_float(new Float32Array(n_heads * d), row);
  const fetches = { out, present_key: past_key, present_value: past_value };
  const feeds = { past_key, past_value };
  for (const name of ['query', 'key', 'value']) feeds[name] = of_float(token[name], row);
  for (const name of cache === 'int8' ? ['k_scale', 'v_scale'] : [])
    feeds[name] = of_float(new Float32Array(n_heads * d).fill(step), [n_heads * d]);
  const over = (m) => ({ ...feeds, seqlens_k: of_int(m - 1), total: of_int(m) });
  const all = over(n), few = over(Math.min(n, 64));
  return { cache, whole: [], rest: [], out: out.data, run: () => session.run(all, fetches),
           run_few: () => session.run(few, fetches) };
}

async function decode(n) {
  const k = randoms(n_heads * n * d), v = randoms(n_heads * n * d);
  const token = { query: randoms(n_heads * d), key: randoms(n_heads * d), value: randoms(n_heads * d) };
  const caches = [];
  for (const cache of Object.keys(cached)) caches.push(await calls_of(cache, n, k, v, token));
  const clock = async (call) => {
    const before = process.hrtime.bigint();
    await call();
    return Number(process.hrtime.bigint() - before) / 1e6;
  };
  for (let round = 0; round < 51; ++round) {
    for (const one of caches) {
      one.rest.push(await clock(one.run_few));
      one.whole.push(await clock(one.run));
    }
  }
  const [float, int8] = caches;
  const error = norm(int8.out.map((y, c) => y - float.out[c])) / norm(float.out);
  for (const { cache, whole, rest } of caches) {
    const itself = Math.min(...whole) - Math.min(...rest);
    const shape = `${n} keys, ${n_heads} heads, d = ${d}, ${threads} threads`;
    console.log(`${shape}, ${cache}: ${median(whole).toFixed(2)} ms a call, ${median(rest).toFixed(2)} over 64 keys; ` +
                `the operator at best ${itself.toFixed(2)}`);
  }
  console.log(`  the answer of 8 bits is ${error.toFixed(4)} from float's`);
}
for (const n of keys.split(',')) await decode(Number(n));
