// Requests and server-sent events, with the API key of this tab. EventSource sends no headers, so streams are read by fetch.

const REOPEN_MS = 1000;
let onKeyWanted = () => {};

export function whenKeyIsWanted(call) { onKeyWanted = call; }

export function setKey(key) { sessionStorage.setItem("headrace-key", key); }

function headers() {
  const key = sessionStorage.getItem("headrace-key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** The answer to a request as JSON; throws an Error with the server's own words. */
export async function ask(path, body) {
  const options = body === undefined ? { headers: headers() } : {
    method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  if (answer.status === 401 || answer.status === 403) onKeyWanted();
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.detail ?? answer.statusText);
  return json;
}

/** Call `take(event, data)` for every event of a stream, opened again when it breaks; returns a function that ends it. */
export function follow(path, take, onBreak = () => {}) {
  const abort = new AbortController();
  (async () => {
    while (!abort.signal.aborted) {
      try {
        await read(path, take, abort.signal);
      } catch (error) {
        if (!abort.signal.aborted) onBreak(error);
      }
      await new Promise((resolve) => setTimeout(resolve, REOPEN_MS));
    }
  })();
  return () => abort.abort();
}

async function read(path, take, signal) {
  const answer = await fetch(path, { headers: headers(), signal });
  if (answer.status === 401 || answer.status === 403) onKeyWanted();
  if (!answer.ok) throw new Error((await answer.json()).detail);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the stream ended");
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) deliver(block, take);
  }
}

function deliver(block, take) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  if (data.length) take(event, JSON.parse(data.join("\n")));
}
