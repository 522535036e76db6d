/** `npm run mock`: the stand-in server alone, with a page that is built. */

import { startMock } from "./server.mjs";

const { url } = await startMock({ port: Number(process.env.PORT ?? 8080), word_ms: 25 });
console.log(`mock server at ${url}`);
