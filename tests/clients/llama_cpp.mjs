// Greedy tokens of a GGUF file: node llama_cpp.mjs FILE PROMPT LENGTH, from a directory with node-llama-cpp in it.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const require = createRequire(process.cwd() + "/");
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const [file, prompt, length] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", usePrebuiltBinaries: true, skipDownload: true});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({contextSize: 256});
const sequence = context.getSequence();
const ids = model.tokenize(prompt);
const made = [];
for await (const token of sequence.evaluate(ids, {temperature: 0})) {
    made.push(token);
    if (made.length >= Number(length)) break;
}
console.log(JSON.stringify({ids: Array.from(ids), made}));
process.exit(0);
