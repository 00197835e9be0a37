// What is looked at: the runs, which of them are chosen, and how curves are drawn. Kept by the browser between visits.

import { lineColour, select } from './dom.js'

export const runs = [] // as the server tells of them
const KEY = 'auricle'

let kept = {}
try {
  kept = JSON.parse(localStorage.getItem(KEY) ?? '{}')
} catch (error) {
  kept = {} // nothing is kept, or not by us
}

const chosen = new Set()
let started = false

export const view = { axis: 'step', smoothing: 0.6, ...kept }

export function keep (changes) {
  Object.assign(view, changes)
  try {
    localStorage.setItem(KEY, JSON.stringify(view))
  } catch (error) {
    console.info('this browser keeps no settings')
  }
}

// Takes what the server tells; gives by the name of each run of which something is new what that is: `steps`,
// `evaluations` or `groups`.
export function learn (told) {
  const before = new Map(runs.map(run => [run.name, run.revisions]))
  runs.splice(0, runs.length, ...told)
  if (!started && told.length > 0) {
    started = true
    const running = told.filter(run => run.written)
    for (const run of running.length > 0 ? running : told.slice(0, 6)) chosen.add(run.name)
  }
  return new Map(told.map(run => [run.name, Object.keys(run.revisions).filter(part => before.get(run.name)?.[part] !== run.revisions[part])]))
}

export function isChosen (name) {
  return chosen.has(name)
}

export function choose (name, whether) {
  if (whether) chosen.add(name)
  else chosen.delete(name)
}

export function chosenRuns () {
  return runs.filter(run => chosen.has(run.name))
}

// The run that a page about one run shows: the one that its address names, else the first that is chosen.
export function theRun (parameters) {
  return runs.find(run => run.name === parameters.run) ?? chosenRuns()[0] ?? runs[0]
}

// The choice of the run that a page about one run shows; none where there is but one.
export function runChoice (run, changed) {
  return runs.length > 1 ? select('Run', runs.map(one => [one.name, one.name]), run.name, changed) : null
}

export function colour (name) {
  return lineColour(runs.findIndex(run => run.name === name))
}
