-- The checks' verdicts.

-- Every check of every network, with what tables call it.
create view check_results as
select c.study, n.role, n.title, c.* exclude (study, cell, network), n.position
from "check" c join networks n on n.study = c.study and n.name = c.name and n.seed = c.seed
order by c.study, n.position, c."check", c.norm, c.epsilon;

-- A twin is the base network of another seed: what is said of all base networks is said of all twins.
create macro trained_as(name, role) as if(role = 'control' and name = 'twin', 'base', name);

-- Whether a network's numbers can be believed: fail if any check fails in any seed, else warn if any warns, else pass;
-- 'not checked' where none was made or could be judged. reason: of the worst, in words.
create view verdicts as
with worst as (
    select study, name, verdict, sentence,
           case verdict when 'fail' then 0 when 'warn' then 1 when 'pass' then 2 else 3 end as severity
    from check_results
    qualify row_number() over (partition by study, name order by severity, "check", seed, norm, epsilon) = 1
)
select n.study, n.name, any_value(n.title) as title, any_value(n.role) as role,
       coalesce(nullif(any_value(w.verdict), 'none'), 'not checked') as verdict,
       case when any_value(w.verdict) = 'fail' then 'not measurable: ' || any_value(w.sentence)
            when any_value(w.verdict) <> 'pass' then any_value(w.sentence) end as reason,
       min(n.position) as position
from networks n left join worst own on own.study = n.study and own.name = n.name
left join worst w on w.study = n.study and w.name = coalesce(own.name, trained_as(n.name, n.role))
group by n.study, n.name
order by n.study, position;

-- Each check over all networks and seeds: what it measured, and how many networks it does not pass.
create view checks as
select study, "check", max(threshold) as threshold, min(statistic) as lowest, max(statistic) as highest,
       count(distinct name) as networks, count(distinct name) filter (verdict = 'warn') as warn,
       count(distinct name) filter (verdict = 'fail') as fail, count(distinct name) filter (verdict = 'none') as unjudged
from check_results group by study, "check" order by study, "check";
