import { get } from './api.js'
import { form, h, loader, number, replace, table } from './dom.js'
import { go } from './router.js'
import { runChoice, theRun } from './state.js'

export function render (box, parameters) {
  const run = theRun(parameters)
  replace(box, h('h1', {}, 'Configuration'))
  if (run === undefined) return {}

  const load = loader(box, () => get('about', { run: run.name }), told => {
    const { packages = {}, ...environment } = told.environment
    const rows = some => Object.entries(some).map(([name, value]) => [name, Array.isArray(value) ? value.join(', ') || 'none' : number(value)])
    replace(box,
      h('h1', {}, 'Configuration'),
      form(runChoice(run, value => go('about', { run: value }))),
      h('p', {}, h('code', {}, run.path)),
      h('pre', { tabindex: '0', 'aria-label': 'The resolved configuration' }, told.config),
      h('div', { class: 'tables' }, table('Where it was begun', ['what', 'value'], rows(environment)), table('Packages', ['package', 'version'], rows(packages))))
  })

  return { ready: load() }
}
