// Packages of more than one test, which share their environment.

export const langchain = ['langchain-openai==1.7.4', 'openai==3.57.0'] as const

/** LiteLLM with what its proxy needs. Its extra `proxy` lists a package that PyPI does not have. */
export const litellm = [
  'litellm==1.110.2',
  'apscheduler==3.11.3',
  'backoff==2.2.1',
  'cryptography==50.0.2',
  'expression==5.8.0',
  'fastapi==0.165.0',
  'fastapi-sso==0.23.0',
  'mcp==2.3.0',
  'orjson==3.13.0',
  'pyjwt==2.15.1',
  'python-multipart==0.0.34',
  'redis==8.1.0',
  'rich==15.0.0',
  'semver==3.1.2',
  'soundfile==0.14.0',
  'uvicorn==0.54.0',
  'uvloop==0.23.0',
  'websockets==15.0.1',
] as const
