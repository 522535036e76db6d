/** Where the page begins. */

import { render } from "preact";
import { App } from "./app.tsx";
import "./style/base.css";
import "./style/chat.css";
import "./style/markdown.css";
import "./style/live.css";

render(<App />, document.body);
