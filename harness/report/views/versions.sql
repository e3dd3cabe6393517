-- What the cells were made with: their files say it, beside their rows.

-- Each library, Python, machine, GPU, driver and package of own code, with its version or digest, and how many of the
-- study's cells were made with it. Two of one name: some cells are older than others, or came from another machine.
create view versions as
with facts as (
    select decode(value)::json as made from stored_facts where decode(key) = 'harness'
), named as (
    select made ->> 'key' as key, made -> 'facts' as facts from facts
), every as (
    select key, unnest(map_entries(coalesce((facts -> 'versions')::map(varchar, varchar), map()))) as entry from named
    union all select key, {'key': 'python', 'value': facts ->> 'python'} from named
    union all select key, {'key': 'machine', 'value': (facts ->> 'machine') || ', ' || (facts ->> 'cores') || ' cores'}
    from named
    union all select key, {'key': 'gpu', 'value': unnest((facts -> 'gpus')::varchar[])} from named
    union all select key, {'key': 'driver', 'value': facts ->> 'driver'} from named
)
select c.study, e.entry.key as name, e.entry.value as version, count(distinct c.key) as cells
from every e join cells c on c.key = e.key and c.study is not null
where e.entry.value is not null
group by c.study, e.entry.key, e.entry.value
union all by name
select study, package || ' (own code)' as name, digest as version from code
order by study, list_position(['python', 'harness', 'torch', 'machine'], name) nulls last, name, cells desc, version;
