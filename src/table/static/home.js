// Lists the parts of the site. A part that must come first, or is the only one, is opened at once.
import {ask, at, home, make} from "./base.js";

try {
  const {parts, held} = await ask("about");
  const first = held || (parts.length === 1 ? parts[0].name : null);
  if (first) location.replace(home + first + location.search);
  at("parts").append(...parts.map((part) => make("li", {}, make("a", {href: home + part.name}, part.title))));
} catch (error) {
  at("error").textContent = error.message;
}
