// Talks to the server: uploads with progress, jobs and their events, pictures. A token, where one is needed, is kept for the session.
let token = sessionStorage.getItem("token") ?? "";

export class Trouble extends Error {
  constructor(code, message, retry = 0) {
    super(message);
    this.code = code;
    this.retry = retry;
  }
}

export function useToken(given) {
  token = given.trim();
  sessionStorage.setItem("token", token);
}

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

function trouble(status, text, retryAfter) {
  try {
    const { error } = JSON.parse(text);
    return new Trouble(error.code, [error.message, error.expected && `(${error.expected})`].filter(Boolean).join(" "), Number(retryAfter) || 1);
  } catch {
    return new Trouble("other", `HTTP ${status}`);
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("network", String(error));
  }
  if (!answer.ok) throw trouble(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

export const getJson = async (path) => (await ask(path)).json();
export const getBlob = async (path) => (await ask(path)).blob();
export const remove = (path) => ask(path, { method: "DELETE" });

/** Send files as a job; `progress` is told the share sent, in [0, 1]. */
export function sendJob(files, options, progress, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name || "pasted.png");
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/jobs?${new URLSearchParams(options)}`);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => progress(event.lengthComputable ? event.loaded / event.total : 0));
    request.addEventListener("load", () => {
      if (request.status === 202) resolve(JSON.parse(request.responseText));
      else reject(trouble(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    });
    request.addEventListener("error", () => reject(new Trouble("network", "")));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Follow a job by its events until it is finished, and give it. `progress` is told every state. */
export async function follow(id, progress, signal) {
  for (let attempt = 0; ; attempt++) {
    try {
      const answer = await ask(`/v1/jobs/${encodeURIComponent(id)}/events`, { signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let held = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        held += value;
        const messages = held.split("\n\n");
        held = messages.pop();
        for (const message of messages) {
          const lines = message.split("\n");
          const data = lines.find((line) => line.startsWith("data: "));
          if (!data) continue;
          const job = JSON.parse(data.slice(6));
          if (lines.includes("event: done")) return job;
          progress(job);
          attempt = 0;
        }
      }
    } catch (error) {
      if (error.name === "AbortError" || (error instanceof Trouble && error.code !== "network" && error.code !== "busy")) throw error;
      if (attempt >= 30) throw error;
    }
    await new Promise((wake) => setTimeout(wake, Math.min(5000, 500 * (attempt + 1)))); // the server restarts: the job is still there
  }
}
