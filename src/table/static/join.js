// Joins: asks for a token, and opens this person's own pages.
import {at, make} from "./base.js";

at("join").addEventListener("click", async () => {
  at("join").disabled = true;
  try {
    const answer = await fetch(location.pathname, {
      method: "POST",
      headers: {"content-type": "application/json"},
      body: JSON.stringify(Object.fromEntries(new URLSearchParams(location.search))),
    });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    if (found.preview) {
      at("told").replaceChildren(...found.preview.map((text) => make("span", {class: "text"}, text)));
      return;
    }
    location.assign(location.pathname.replace(/join\/[^/]*$/, `p/${found.token}/`) + location.search);
  } catch (error) {
    at("error").textContent = error.message;
    at("join").disabled = false;
  }
});
