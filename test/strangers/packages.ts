// Packages of more than one test, which share their environment.

export const langchain = ['langchain-openai==1.7.4', 'openai==3.57.0'] as const
