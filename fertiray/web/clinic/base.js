// What every part of the page uses.

const KEY = "fertiray-token";

export const byId = (id) => document.getElementById(id);
export const token = () => sessionStorage.getItem(KEY);

export function signIn(text) {
  sessionStorage.setItem(KEY, text);
}

export function signOut() {
  sessionStorage.removeItem(KEY);
  dispatchEvent(new Event("signed-out"));
}

// An element with attributes and children; texts are never markup.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// For those who hear the page.
export function say(text) {
  byId("status").textContent = text;
}

export function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
  if (text) byId("problem").scrollIntoView({ block: "nearest" });
}

// Asks the service; an answer that is no success becomes an error with the service's own words.
export async function ask(path, options = {}) {
  let answer;
  try {
    const headers = { ...options.headers, authorization: `Bearer ${token()}` };
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service cannot be reached. Is the network up?");
  }
  if (answer.status === 401) {
    signOut();
    throw new Error("This token is not valid, or its time is over.");
  }
  if (!answer.ok) throw Object.assign(new Error(await reason(answer)), { status: answer.status });
  return answer;
}

async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The service answered ${answer.status}.`;
  }
}

export const asJson = async (path) => (await ask(path)).json();
